package cli

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"github.com/halleypush/halley/pkg/channel"
)

// credentialField is a field of a channel's credential that has a flag of its own. Those that are not texts, yes or no, or
// files are given with --credential.
type credentialField struct {
	name string
	kind fieldKind
	help string
}

// fieldKind is how a flag's value becomes the field's.
type fieldKind int

const (
	textField fieldKind = iota // as it is
	boolField                  // true or false
	fileField                  // the path of a file; its text, or base64 if it is none
	jsonField                  // the path of a file that holds a JSON object
)

// flag returns the flag's name, without dashes in front: the field's own.
func (f credentialField) flag() string { return strings.ReplaceAll(f.name, "_", "-") }

func (f credentialField) usage() string {
	switch f.kind {
	case fileField, jsonField:
		return "`file` with " + f.help
	default:
		return f.help
	}
}

// What several channels have.
var (
	appID     = credentialField{"app_id", textField, "the app's id"}
	appSecret = credentialField{"app_secret", textField, "the app's secret"}
	category  = credentialField{"category", textField, "the vendor's class of messages, for notifications without a channel id"}
	badge     = credentialField{"badge_class", textField, "activity that the launcher starts; without it there are no badges"}
	account   = credentialField{"service_account", jsonField, "the service account, as the console gives it"}
	receipts  = []credentialField{
		{"receipt_user", textField, "user name of the receipts' callback"},
		{"receipt_key", textField, "key that receipts are signed with"},
		{"receipt_id", textField, "which one of the project's callbacks"},
	}
)

// credentialFields lists the fields of a channel's credential; none for a channel that takes --credential alone.
func credentialFields(name string) []credentialField {
	switch name {
	case channel.APNs:
		return []credentialField{
			{"bundle_id", textField, "the app's bundle id"},
			{"key", fileField, "the key, AuthKey_….p8"},
			{"key_id", textField, "the key's id, 10 characters"},
			{"team_id", textField, "the team's id, 10 characters"},
			{"certificate", fileField, "a certificate instead of a key, .p12 or PEM"},
			{"password", textField, "the certificate's password"},
		}
	case channel.FCM:
		return []credentialField{account}
	case channel.Huawei:
		return append([]credentialField{
			appID,
			appSecret,
			{"project_id", textField, "the project's id; with it API v2 is used"},
			{"urgent", boolField, "true: Huawei has granted the app high importance"},
			badge, category,
		}, receipts...)
	case channel.Harmony:
		return append([]credentialField{account, category}, receipts...)
	case channel.Honor:
		return []credentialField{
			appID,
			{"client_id", textField, "the client's id"},
			{"client_secret", textField, "the client's secret"},
			badge, category,
		}
	case channel.Meizu:
		return []credentialField{
			appID, appSecret,
			{"region", textField, "china (default) or overseas"},
			{"receipt_token", textField, "the access_token of receipts, as in the console"},
			category,
		}
	case channel.OPPO:
		return []credentialField{
			{"app_key", textField, "the app's key"}, {"master_secret", textField, "the app's master secret"}, category,
		}
	case channel.Vivo:
		return []credentialField{
			appID,
			{"app_key", textField, "the app's key"},
			appSecret,
			{"receipt_id", textField, "the id of the receipts' address, as in the console"},
			category,
		}
	case channel.WebPush:
		return []credentialField{
			{"private_key", textField, "the private key of the VAPID pair"},
			{"subject", textField, "who to write to: a mailto: or https: URL"},
		}
	case channel.Xiaomi:
		return []credentialField{
			appSecret,
			{"package", textField, "the app's package"},
			{"region", textField, "china (default), global, europe, india or russia"},
			category,
		}
	}
	return nil
}

// readCredential returns the credential in a file.
func readCredential(path string) (map[string]any, error) {
	credential, err := readObject(path)
	if err != nil {
		return nil, usageError{fmt.Errorf("--credential: %w", err)}
	}
	return credential, nil
}

// putFlags puts the fields of flags that were given over a credential's.
func putFlags(credential map[string]any, flags *pflag.FlagSet, fields []credentialField) error {
	for _, field := range fields {
		if !flags.Changed(field.flag()) {
			continue
		}
		value, err := field.read(flags.Lookup(field.flag()).Value.String())
		if err != nil {
			return usageError{fmt.Errorf("--%s: %w", field.flag(), err)}
		}
		credential[field.name] = value
	}
	return nil
}

// read returns the field's value. Its errors show no content of files.
func (f credentialField) read(given string) (any, error) {
	switch f.kind {
	case boolField:
		value, err := strconv.ParseBool(given)
		if err != nil {
			return nil, fmt.Errorf("must be true or false, not %q", given)
		}
		return value, nil
	case fileField:
		content, err := os.ReadFile(given)
		if err == nil && !utf8.Valid(content) {
			return base64.StdEncoding.EncodeToString(content), nil
		}
		return string(content), err
	case jsonField:
		return readObject(given)
	default:
		return given, nil
	}
}

func readObject(path string) (map[string]any, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	if json.Unmarshal(content, &object) != nil || object == nil { // the error could show a part of a secret
		return nil, fmt.Errorf("%s is not a JSON object", path)
	}
	return object, nil
}
