// Command openapi finishes the OpenAPI document that protoc-gen-openapiv3 and openapiv3-merge made: it gives fields the
// names that the API's JSON has (the generator knows only camelCase), the phones' calls the form of the phone JSON, and adds
// what no proto says: title, servers and how callers authenticate. It reads standard input and writes standard output.
package main

import (
	"encoding/json"
	"log"
	"os"
	"regexp"
	"strings"
)

type object = map[string]any

func main() {
	var doc object
	if err := json.NewDecoder(os.Stdin).Decode(&doc); err != nil {
		log.Fatalf("read document: %v", err)
	}
	rename(doc)
	for name, schema := range at(doc, "components", "schemas") {
		if strings.HasPrefix(name, "halley.device.v1.") {
			phone(schema)
		}
	}
	flattenRegistration(doc)
	describe(doc)
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	if err := out.Encode(doc); err != nil {
		log.Fatalf("write document: %v", err)
	}
}

var hump = regexp.MustCompile(`[A-Z]`)

func snake(name string) string {
	return hump.ReplaceAllStringFunc(name, func(s string) string { return "_" + strings.ToLower(s) })
}

// rename gives properties and parameters their proto names.
func rename(node any) {
	switch n := node.(type) {
	case []any:
		for _, item := range n {
			rename(item)
		}
	case object:
		if in, ok := n["in"].(string); ok && (in == "query" || in == "path") {
			n["name"] = snake(n["name"].(string))
		}
		if properties, ok := n["properties"].(object); ok {
			renamed := object{}
			for name, schema := range properties {
				renamed[snake(name)] = schema
			}
			n["properties"] = renamed
		}
		if required, ok := n["required"].([]any); ok {
			for i, name := range required {
				required[i] = snake(name.(string))
			}
		}
		for _, child := range n {
			rename(child)
		}
	}
}

// phone gives a schema the form of the phone JSON: enum words in lower case, without the zero word, and 64-bit integers as
// plain numbers.
func phone(node any) {
	switch n := node.(type) {
	case []any:
		for _, item := range n {
			phone(item)
		}
	case object:
		if words, ok := n["enum"].([]any); ok {
			var lower []any
			for _, w := range words {
				if text := w.(string); !strings.HasSuffix(text, "_UNSPECIFIED") {
					lower = append(lower, strings.ToLower(text))
				}
			}
			n["enum"] = lower
		}
		if n["format"] == "int64" {
			n["type"] = "integer"
		}
		for _, child := range n {
			phone(child)
		}
	}
}

// flattenRegistration puts the report's fields beside the registration's own.
func flattenRegistration(doc object) {
	registration := at(doc, "paths", "/device/v1/register", "post", "requestBody", "content", "application/json", "schema", "properties")
	delete(registration, "report")
	for name, schema := range at(doc, "components", "schemas", "halley.device.v1.Report", "properties") {
		registration[name] = schema
	}
}

// at returns the object at the end of a path of keys, which must be there.
func at(node object, path ...string) object {
	for _, key := range path {
		child, ok := node[key].(object)
		if !ok {
			log.Fatalf("the document has no %s", strings.Join(path, " / "))
		}
		node = child
	}
	return node
}

// describe adds what no proto says.
func describe(doc object) {
	doc["info"] = object{
		"title":       "Halley",
		"version":     "1",
		"description": "The business, admin and phone APIs of Halley, a self-hosted mobile push platform. Errors of /v1 and /admin/v1 are google.rpc.Status; those of /device/v1 are {\"error\": halley.device.v1.Error}.",
		"license":     object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
	}
	doc["servers"] = []any{object{"url": "/", "description": "the server that this document came from"}}
	components := at(doc, "components")
	components["securitySchemes"] = object{
		"serverKey":  object{"type": "http", "scheme": "bearer", "description": "a server key of the app, sk_…"},
		"adminToken": object{"type": "http", "scheme": "bearer", "description": "the admin token, ak_…"},
		"device":     object{"type": "http", "scheme": "basic", "description": "the device's token and secret"},
	}
	at(components, "schemas")["halley.device.v1.Error"] = object{
		"type":        "object",
		"description": "Why a call was refused.",
		"properties": object{"error": object{"type": "object", "required": []any{"code", "message"}, "properties": object{
			"code":           object{"type": "string", "description": "A gRPC code's name, such as INVALID_ARGUMENT."},
			"message":        object{"type": "string"},
			"field":          object{"type": "string", "description": "The field at fault, if one is."},
			"retry_after_ms": object{"type": "integer", "format": "int64", "description": "Milliseconds to wait before the next try, if waiting helps."},
		}}},
	}
	for path, item := range at(doc, "paths") {
		for method, operation := range item.(object) {
			if op, ok := operation.(object); ok && method != "parameters" {
				secure(path, op)
			}
		}
	}
}

func secure(path string, operation object) {
	switch {
	case strings.HasPrefix(path, "/admin/v1/"):
		operation["security"] = []any{object{"adminToken": []any{}}}
	case strings.HasPrefix(path, "/v1/"):
		operation["security"] = []any{object{"serverKey": []any{}}}
	default:
		if path != "/device/v1/register" { // that one carries its client key in the body
			operation["security"] = []any{object{"device": []any{}}}
		}
		at(operation, "responses")["default"] = object{
			"description": "The call was refused.",
			"content": object{"application/json": object{
				"schema": object{"$ref": "#/components/schemas/halley.device.v1.Error"},
			}},
		}
	}
}
