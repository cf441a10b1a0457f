package cli

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/services/pushcore/doctor"
)

func TestVendorsAreReached(t *testing.T) {
	t.Parallel()
	off := time.Duration(0)
	vendor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusMethodNotAllowed) // any answer is one
	}))
	t.Cleanup(vendor.Close)
	if f := reachVendor(t.Context(), "apns", vendor.URL); f.Level != doctor.OK {
		t.Errorf("%+v", f)
	}
	off = -time.Hour
	if f := reachVendor(t.Context(), "apns", vendor.URL); f.Level != doctor.Failed || !strings.Contains(f.Do, "NTP") {
		t.Errorf("%+v", f)
	}
	vendor.Close()
	if f := reachVendor(t.Context(), "apns", vendor.URL); f.Level != doctor.Failed || !strings.Contains(f.Do, "firewall") {
		t.Errorf("%+v", f)
	}
}

func TestEveryVendorHasURLs(t *testing.T) {
	t.Parallel()
	for _, name := range channel.Vendors() {
		urls := vendorURLs()[name]
		if len(urls) == 0 {
			t.Errorf("%s has none", name)
		}
		for _, u := range urls {
			if !strings.HasPrefix(u, "https://") {
				t.Errorf("%s: %q", name, u)
			}
		}
	}
}
