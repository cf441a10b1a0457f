// Package roots has the certificates that public servers are trusted by: Mozilla's, as golang.org/x/crypto keeps them.
package roots

import (
	"bytes"
	"encoding/pem"
	"fmt"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Path is where Go looks for them.
const Path = "/etc/ssl/certs/ca-certificates.crt"

// PEM returns the certificates as one file. Authorities that Mozilla trusts for certificates of before some day only are in it, too, as they
// are in the distributions' files, which have no place for such conditions.
func PEM() ([]byte, error) {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, fmt.Errorf("root certificates: %w", err)
		}
	}
	return out.Bytes(), nil
}
