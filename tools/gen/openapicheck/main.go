// Command openapicheck checks an OpenAPI document against the specification: its structure by the official JSON schema, and
// that every reference in it leads somewhere. It reads standard input and lists what is wrong.
package main

import (
	"fmt"
	"io"
	"log"
	"os"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatalf("read document: %v", err)
	}
	doc, err := libopenapi.NewDocument(text)
	if err != nil {
		log.Fatalf("parse document: %v", err)
	}
	if _, err := doc.BuildV3Model(); err != nil { // resolves the references
		log.Fatalf("the document is wrong: %v", err)
	}
	check, errs := validator.NewValidator(doc)
	if len(errs) > 0 {
		log.Fatalf("prepare the check: %v", errs)
	}
	valid, findings := check.ValidateDocument()
	for _, f := range findings {
		fmt.Printf("%s: %s\n", f.Message, f.Reason)
		for _, s := range f.SchemaValidationErrors {
			fmt.Printf("  %s: %s\n", s.FieldPath, s.Reason)
		}
	}
	if !valid {
		os.Exit(1)
	}
}
