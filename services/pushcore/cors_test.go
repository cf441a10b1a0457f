package pushcore_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/halleypush/halley/services/pushcore/pushcoretest"
)

func TestPagesOfOtherOriginsCallAsPhones(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	config, err := site.Config()
	if err != nil {
		t.Fatal(err)
	}
	config.CORSOrigins = []string{"https://www.example.com"}
	core := site.StartWith(t, config)
	app := core.NewApp(t, nil)
	call := func(method, path, origin, body string) *http.Response {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+core.HTTP+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Origin", origin)
		if method == http.MethodOptions {
			request.Header.Set("Access-Control-Request-Method", http.MethodPost)
			request.Header.Set("Access-Control-Request-Headers", "authorization,content-type") // as browsers write it
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close() // its headers count
		return response
	}
	const allowed = "Access-Control-Allow-Origin"
	for origin, want := range map[string]string{"https://www.example.com": "https://www.example.com", "https://evil.example": ""} {
		asked := call(http.MethodOptions, "/device/v1/report", origin, "")
		if asked.StatusCode != http.StatusNoContent || asked.Header.Get(allowed) != want {
			t.Errorf("%s: %s, %q", origin, asked.Status, asked.Header.Get(allowed))
		}
		if headers := asked.Header.Get("Access-Control-Allow-Headers"); want != "" && !strings.EqualFold(headers, "authorization,content-type") {
			t.Errorf("headers %q", headers)
		}
	}
	body := `{"app":"` + app.ID + `","client_key":"` + app.ClientKey + `","install_id":"` + pushcoretest.NewInstall() + `","platform":"web"}`
	if made := call(http.MethodPost, "/device/v1/register", "https://www.example.com", body); made.StatusCode != http.StatusOK ||
		made.Header.Get(allowed) != "https://www.example.com" {
		t.Errorf("register: %s, %v", made.Status, made.Header)
	}
	if business := call(http.MethodOptions, "/v1/apps/"+app.ID+"/pushes", "https://www.example.com", ""); business.Header.Get(allowed) != "" {
		t.Errorf("the business API lets pages in: %v", business.Header)
	}
}

func TestWrongOriginsAreRefused(t *testing.T) {
	t.Parallel()
	site := pushcoretest.NewSite(t)
	for origin, good := range map[string]bool{
		"*": true, "https://www.example.com": true, "http://localhost:3000": true,
		"www.example.com": false, "https://www.example.com/": false, "https://www.example.com/app": false, "": false, "ftp://x": false,
	} {
		config, err := site.Config()
		if err != nil {
			t.Fatal(err)
		}
		config.CORSOrigins = []string{origin}
		if err := config.Validate(); (err == nil) != good || err != nil && !strings.Contains(err.Error(), "cors_origins") {
			t.Errorf("%q: %v", origin, err)
		}
	}
}
