package apns

import (
	"net/http"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// The reasons that the simulator gives by itself. The others are there to be asked for.
const (
	badChannelID           = "BadChannelId"
	badCertificate         = "BadCertificate"
	badCertificateEnv      = "BadCertificateEnvironment"
	badCollapseID          = "BadCollapseId"
	badDeviceToken         = "BadDeviceToken"
	badEnvironmentKeyID    = "BadEnvironmentKeyIdInToken"
	badExpirationDate      = "BadExpirationDate"
	badMessageID           = "BadMessageId"
	badPath                = "BadPath"
	badPriority            = "BadPriority"
	badTopic               = "BadTopic"
	cannotCreateChannel    = "CannotCreateChannelConfig"
	channelNotRegistered   = "ChannelNotRegistered"
	deviceTokenNotForTopic = "DeviceTokenNotForTopic"
	duplicateHeaders       = "DuplicateHeaders"
	expiredProviderToken   = "ExpiredProviderToken"
	featureNotEnabled      = "FeatureNotEnabled"
	invalidProviderToken   = "InvalidProviderToken"
	invalidPushType        = "InvalidPushType"
	methodNotAllowed       = "MethodNotAllowed"
	missingChannelID       = "MissingChannelId"
	missingDeviceToken     = "MissingDeviceToken"
	missingProviderToken   = "MissingProviderToken"
	missingTopic           = "MissingTopic"
	payloadEmpty           = "PayloadEmpty"
	payloadTooLarge        = "PayloadTooLarge"
	serviceUnavailable     = "ServiceUnavailable"
	tooManyRequests        = "TooManyRequests"
	tooManyTokenUpdates    = "TooManyProviderTokenUpdates"
	topicDisallowed        = "TopicDisallowed"
	topicMismatch          = "TopicMismatch"
	unregistered           = "Unregistered"
	unrelatedKeyID         = "UnrelatedKeyIdInToken"
)

// Codes lists the documented answers. The sheet gives no status for those about broadcast channels (M): they are 400 here, as
// other faults of a request.
func Codes() []frame.Code {
	var codes []frame.Code
	add := func(status int, group frame.Group, reasons ...[2]string) {
		for _, r := range reasons {
			codes = append(codes, frame.Code{Status: status, Code: r[0], Meaning: r[1], Group: group, Place: frame.InAnswer})
		}
	}
	add(http.StatusOK, frame.Success, [2]string{"200", "accepted, not shown"})
	add(http.StatusInternalServerError, frame.RetryLater, [2]string{"InternalServerError", "retry after 15 minutes, or with back-off"})
	add(http.StatusServiceUnavailable, frame.RetryLater,
		[2]string{serviceUnavailable, "retry later"}, [2]string{"Shutdown", "reconnect first"})
	add(http.StatusBadRequest, frame.RetryLater, [2]string{"IdleTimeout", "open a new connection and send again"})
	add(http.StatusTooManyRequests, frame.Rate,
		[2]string{tooManyRequests, "too many to the same device token"},
		[2]string{tooManyTokenUpdates, "keep the provider token for 20 minutes"})
	add(http.StatusForbidden, frame.Refresh, [2]string{expiredProviderToken, "make a new provider token and retry once"})
	add(http.StatusForbidden, frame.Configuration,
		[2]string{invalidProviderToken, "signature, key, team or time is wrong"},
		[2]string{missingProviderToken, "neither provider token nor certificate"},
		[2]string{badCertificate, "the certificate is not good"},
		[2]string{badCertificateEnv, "the certificate is for the other environment"},
		[2]string{unrelatedKeyID, "the key is limited to other topics"},
		[2]string{badEnvironmentKeyID, "the key is limited to the other environment"},
		[2]string{"BadEnvironmentKeyInToken", "the key is limited to the other environment"},
		[2]string{"Forbidden", "not allowed"})
	add(http.StatusGone, frame.TokenInvalid,
		[2]string{unregistered, "the token is dead since the timestamp"},
		[2]string{"ExpiredToken", "the token has expired"})
	add(http.StatusBadRequest, frame.TokenInvalid,
		[2]string{badDeviceToken, "not a token, or of the other environment"},
		[2]string{deviceTokenNotForTopic, "the token is of another app"})
	add(http.StatusBadRequest, frame.Payload,
		[2]string{badCollapseID, "over 64 bytes"}, [2]string{badExpirationDate, "not a UNIX time in seconds"},
		[2]string{badMessageID, "apns-id is not a lower-case UUID"}, [2]string{badPriority, "not 10, 5 or 1, or not 5 for background"},
		[2]string{badTopic, "not a topic, or not that of the push type"}, [2]string{duplicateHeaders, "a header is there twice"},
		[2]string{invalidPushType, "apns-push-type is not known"}, [2]string{missingDeviceToken, "the path has no token"},
		[2]string{missingTopic, "apns-topic is missing"}, [2]string{payloadEmpty, "no JSON object"},
		[2]string{topicDisallowed, "the credential may not send to the topic"})
	add(http.StatusNotFound, frame.Payload, [2]string{badPath, "no such path"})
	add(http.StatusMethodNotAllowed, frame.Payload, [2]string{methodNotAllowed, "not POST"})
	add(http.StatusRequestEntityTooLarge, frame.Payload, [2]string{payloadTooLarge, "over 4096 bytes, 5120 for VoIP"})
	add(http.StatusBadRequest, frame.Payload,
		[2]string{badChannelID, "apns-channel-id is not base64"}, [2]string{missingChannelID, "apns-channel-id is missing"},
		[2]string{channelNotRegistered, "no such channel"}, [2]string{topicMismatch, "the channel is of another app"})
	add(http.StatusBadRequest, frame.Configuration,
		[2]string{featureNotEnabled, "the app has no right to broadcast"},
		[2]string{cannotCreateChannel, "the app has too many channels, or the settings are wrong"})
	return codes
}
