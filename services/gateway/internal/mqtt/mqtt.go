// Package mqtt is the part of MQTT 3.1.1 and 5.0 that Halley speaks, as bytes: no sockets, no sessions, no clocks.
//
// Section numbers in comments are those of the OASIS MQTT Version 5.0 standard, or of 3.1.1 where they say so.
package mqtt

import "fmt"

// Protocol levels, the byte behind the protocol name in CONNECT (3.1.2.2).
const (
	V311 byte = 4
	V5   byte = 5
)

// Packet types, the high four bits of a packet's first byte (2.1.2).
const (
	CONNECT     byte = 1
	CONNACK     byte = 2
	PUBLISH     byte = 3
	PUBACK      byte = 4
	PUBREC      byte = 5
	PUBREL      byte = 6
	PUBCOMP     byte = 7
	SUBSCRIBE   byte = 8
	SUBACK      byte = 9
	UNSUBSCRIBE byte = 10
	UNSUBACK    byte = 11
	PINGREQ     byte = 12
	PINGRESP    byte = 13
	DISCONNECT  byte = 14
	AUTH        byte = 15
)

// Code is a reason code (2.4).
type Code byte

// The reason codes that Halley sends.
const (
	Success                  Code = 0x00
	GrantedQoS1              Code = 0x01
	NoSubscriptionExisted    Code = 0x11
	MalformedPacket          Code = 0x81
	ProtocolError            Code = 0x82
	UnsupportedVersion       Code = 0x84
	InvalidClientID          Code = 0x85
	NotAuthorized            Code = 0x87
	ServerUnavailable        Code = 0x88
	ShuttingDown             Code = 0x8B
	BadAuthenticationMethod  Code = 0x8C
	KeepAliveTimeout         Code = 0x8D
	SessionTakenOver         Code = 0x8E
	TopicFilterInvalid       Code = 0x8F
	TopicNameInvalid         Code = 0x90
	ReceiveMaximumExceeded   Code = 0x93
	TopicAliasInvalid        Code = 0x94
	PacketTooLarge           Code = 0x95
	MessageRateTooHigh       Code = 0x96
	QuotaExceeded            Code = 0x97
	AdministrativeAction     Code = 0x98
	PayloadFormatInvalid     Code = 0x99
	RetainNotSupported       Code = 0x9A
	QoSNotSupported          Code = 0x9B
	UseAnotherServer         Code = 0x9C
	ServerMoved              Code = 0x9D
	SharedNotSupported       Code = 0x9E
	ConnectionRateExceeded   Code = 0x9F
	WildcardNotSupported     Code = 0xA2
	SubscriptionIDsRefused   Code = 0xA1
	SubscriptionFailure311   Code = 0x80
	UnspecifiedError         Code = 0x80
	ImplementationSpecific   Code = 0x83
	connectRefusedVersion311 byte = 1
	connectRefusedID311      byte = 2
	connectRefusedServer311  byte = 3
	connectRefusedAuth311    byte = 5
)

// Return311 returns the CONNACK return code of 3.1.1 (its table 3.1) that says most nearly what a reason code says.
func (c Code) Return311() byte {
	switch c {
	case Success:
		return 0
	case UnsupportedVersion:
		return connectRefusedVersion311
	case InvalidClientID:
		return connectRefusedID311
	case NotAuthorized, BadAuthenticationMethod:
		return connectRefusedAuth311
	default:
		return connectRefusedServer311
	}
}

// Property identifiers (2.2.2.2).
const (
	propPayloadFormat     byte = 0x01
	propMessageExpiry     byte = 0x02
	propContentType       byte = 0x03
	propResponseTopic     byte = 0x08
	propCorrelationData   byte = 0x09
	propSubscriptionID    byte = 0x0B
	propSessionExpiry     byte = 0x11
	propAssignedClientID  byte = 0x12
	propServerKeepAlive   byte = 0x13
	propAuthMethod        byte = 0x15
	propAuthData          byte = 0x16
	propRequestProblem    byte = 0x17
	propWillDelay         byte = 0x18
	propRequestResponse   byte = 0x19
	propServerReference   byte = 0x1C
	propReasonString      byte = 0x1F
	propReceiveMaximum    byte = 0x21
	propTopicAliasMaximum byte = 0x22
	propTopicAlias        byte = 0x23
	propMaximumQoS        byte = 0x24
	propRetainAvailable   byte = 0x25
	propUser              byte = 0x26
	propMaximumPacketSize byte = 0x27
	propWildcardAvailable byte = 0x28
	propSubIDAvailable    byte = 0x29
	propSharedAvailable   byte = 0x2A
)

// UserProperty is a name and value that the standard leaves to applications.
type UserProperty struct{ Name, Value string }

// Error is a packet that breaks the protocol, with the code to send in DISCONNECT or CONNACK.
type Error struct {
	Code   Code
	Reason string
}

func (e *Error) Error() string { return fmt.Sprintf("%s (0x%02X)", e.Reason, byte(e.Code)) }

func malformed(format string, args ...any) error {
	return &Error{Code: MalformedPacket, Reason: fmt.Sprintf(format, args...)}
}

func violation(format string, args ...any) error {
	return &Error{Code: ProtocolError, Reason: fmt.Sprintf(format, args...)}
}
