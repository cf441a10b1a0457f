package apns

import (
	"github.com/sideshow/apns2"

	"github.com/halleypush/halley/pkg/sender"
)

// Code is one of Apple's answers and what it means here.
type Code struct {
	Status  int
	Reason  string
	Outcome sender.Outcome
}

// Codes returns every documented answer (Apple, "Handling notification responses from APNs").
func Codes() []Code {
	return []Code{
		{200, "", sender.Accepted},
		{400, "BadChannelId", sender.Rejected},
		{400, apns2.ReasonBadCollapseID, sender.Rejected},
		{400, apns2.ReasonBadDeviceToken, sender.TokenGone},
		{400, apns2.ReasonBadExpirationDate, sender.Rejected},
		{400, apns2.ReasonBadMessageID, sender.Rejected},
		{400, apns2.ReasonBadPriority, sender.Rejected},
		{400, apns2.ReasonBadTopic, sender.Rejected},
		{400, "CannotCreateChannelConfig", sender.Rejected},
		{400, "ChannelNotRegistered", sender.Rejected},
		{400, apns2.ReasonDeviceTokenNotForTopic, sender.TokenGone},
		{400, apns2.ReasonDuplicateHeaders, sender.Rejected},
		{400, "FeatureNotEnabled", sender.Rejected},
		{400, apns2.ReasonIdleTimeout, sender.Retry},
		{400, apns2.ReasonInvalidPushType, sender.Rejected},
		{400, "MissingChannelId", sender.Rejected},
		{400, apns2.ReasonMissingDeviceToken, sender.Rejected},
		{400, apns2.ReasonMissingTopic, sender.Rejected},
		{400, apns2.ReasonPayloadEmpty, sender.Rejected},
		{400, apns2.ReasonTopicDisallowed, sender.Rejected},
		{400, "TopicMismatch", sender.Rejected},
		{403, apns2.ReasonBadCertificate, sender.CredentialBad},
		{403, apns2.ReasonBadCertificateEnvironment, sender.CredentialBad},
		{403, "BadEnvironmentKeyIdInToken", sender.CredentialBad},
		{403, "BadEnvironmentKeyInToken", sender.CredentialBad},
		{403, apns2.ReasonExpiredProviderToken, sender.CredentialBad},
		{403, apns2.ReasonForbidden, sender.CredentialBad},
		{403, apns2.ReasonInvalidProviderToken, sender.CredentialBad},
		{403, apns2.ReasonMissingProviderToken, sender.CredentialBad},
		{403, "UnrelatedKeyIdInToken", sender.CredentialBad},
		{404, apns2.ReasonBadPath, sender.Rejected},
		{405, apns2.ReasonMethodNotAllowed, sender.Rejected},
		{410, "ExpiredToken", sender.TokenGone},
		{410, apns2.ReasonUnregistered, sender.TokenGone},
		{413, apns2.ReasonPayloadTooLarge, sender.Rejected},
		{429, apns2.ReasonTooManyProviderTokenUpdates, sender.Retry},
		{429, apns2.ReasonTooManyRequests, sender.Retry},
		{500, apns2.ReasonInternalServerError, sender.Retry},
		{503, apns2.ReasonServiceUnavailable, sender.Retry},
		{503, apns2.ReasonShutdown, sender.Retry},
	}
}

// outcome maps an answer. A reason that Apple has added since is judged by its status.
func outcome(status int, reason string) sender.Outcome {
	for _, c := range Codes() {
		if c.Status == status && c.Reason == reason {
			return c.Outcome
		}
	}
	switch {
	case status/100 == 2: // 201 and 204 are about broadcast channels
		return sender.Accepted
	case status == 403:
		return sender.CredentialBad
	case status == 410:
		return sender.TokenGone
	case status == 429 || status >= 500:
		return sender.Retry
	default:
		return sender.Rejected
	}
}
