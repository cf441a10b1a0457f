// Package openapi holds the OpenAPI document of the REST API, generated from the protos by `make gen`.
package openapi

import _ "embed"

// Document is the OpenAPI 3.1 document, JSON.
//
//go:embed openapi.json
var Document []byte
