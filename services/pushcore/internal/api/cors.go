package api

import (
	"net/http"
	"net/url"

	"github.com/rs/cors"
)

// preflightFor is for how many seconds a browser may remember what a page may do; Chromium's own limit is two hours.
const preflightFor = 7200

// IsOrigin reports whether a text is an origin as browsers send it, or "*".
func IsOrigin(text string) bool {
	if text == "*" {
		return true
	}
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && text == u.Scheme+"://"+u.Host
}

// AllowOrigins lets scripts of web pages of these origins call a handler (CORS, https://fetch.spec.whatwg.org). Devices show their
// token and secret with each call, never a cookie, so that any origin may be let in.
func AllowOrigins(origins []string, h http.Handler) http.Handler {
	if len(origins) == 0 {
		return h
	}
	return cors.New(cors.Options{
		AllowedOrigins: origins, AllowedMethods: []string{http.MethodGet, http.MethodPost}, AllowedHeaders: []string{"Authorization", "Content-Type"},
		ExposedHeaders: []string{"Retry-After"}, MaxAge: preflightFor,
	}).Handler(h)
}
