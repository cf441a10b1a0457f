package frame

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// ErrNotForm says that a request is no form.
var ErrNotForm = errors.New("the body is not application/x-www-form-urlencoded in UTF-8")

// ReadForm reads a request's form, at most 8 MiB. It returns ErrNotForm for another type of content or character set.
func ReadForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	kind, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" ||
		parameters["charset"] != "" && !strings.EqualFold(parameters["charset"], "utf-8") {
		return nil, ErrNotForm
	}
	body, err := ReadBody(w, r)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, fmt.Errorf("read the form: %w", err)
	}
	return form, nil
}

// FormText returns a form as a JSON object, to record and to find our push_id in, without the fields that are named.
func FormText(form url.Values, without ...string) string {
	fields := make(map[string]string, len(form))
	for name := range form {
		if !slices.Contains(without, name) {
			fields[name] = form.Get(name)
		}
	}
	text, _ := json.Marshal(fields) // texts can be encoded
	return string(text)
}

// Text returns a JSON text without its quotes, and any other JSON value as it is written: what a form would hold.
func Text(value json.RawMessage) string {
	var s string
	if json.Unmarshal(value, &s) == nil {
		return s
	}
	return string(value)
}

// PostJSON makes a call that carries a JSON document.
func PostJSON(ctx context.Context, address string, document any) (*http.Request, error) {
	body, err := json.Marshal(document)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return post(ctx, address, "application/json; charset=UTF-8", body)
}

// PostForm makes a call that carries a form.
func PostForm(ctx context.Context, address string, form url.Values) (*http.Request, error) {
	return post(ctx, address, "application/x-www-form-urlencoded; charset=UTF-8", []byte(form.Encode()))
}

func post(ctx context.Context, address, kind string, body []byte) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make the call: %w", err)
	}
	request.Header.Set("Content-Type", kind)
	return request, nil
}
