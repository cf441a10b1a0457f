package frame_test

import (
	"context"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

func TestDevicesKnowTheirOwnTokens(t *testing.T) {
	t.Parallel()
	d := frame.NewDevices("x-")
	if _, err := d.Tokens("one", 1); err == nil {
		t.Error("made tokens of an unknown app")
	}
	d.Know("one")
	d.Know("two")
	list, err := d.Tokens("one", 2)
	if err != nil || len(list) != 2 || list[0] == list[1] {
		t.Fatalf("made %v: %v", list, err)
	}
	own := list[0].(string)
	for token, legal := range map[string]bool{
		own: true, "anything": true, "x-": true, "": false, "a b": false, "sim:code=1 b": true, strings.Repeat("t", 4097): false,
	} {
		if d.Legal(token, "one") != legal {
			t.Errorf("legal(%.20q) is %v", token, !legal)
		}
	}
	if d.Legal(own, "two") {
		t.Error("a token of one is good for two")
	}
}

func TestTargetsAreSorted(t *testing.T) {
	t.Parallel()
	d := frame.NewDevices("x-")
	f, _ := newFrame(t)
	targets := frame.Targets{
		App: "one", Tokens: []string{"a", "sim:code=7", "sim:receipt=r|delay=0s", "bad one", "sim:code=0"},
		Receipt: "usual", Dead: "8", Foreign: "9",
		Codes: []frame.Code{{Code: "7", Place: frame.InToken}, {Code: "0", Place: frame.InAnswer, Group: frame.Success}},
	}
	list, code, err := f.Sort(t.Context(), d, targets)
	want := frame.Sorted{
		{Token: "a", Receipt: "usual"},
		{Token: "sim:code=7", Code: "7", Receipt: "usual"},
		{Token: "sim:receipt=r|delay=0s", Receipt: "r"},
		{Token: "bad one", Code: "9", Receipt: "usual"},
		{Token: "sim:code=0", Receipt: "usual"},
	}
	if err != nil || code != "" || !slices.Equal(list, want) {
		t.Errorf("sorted %+v %s %v", list, code, err)
	}
	if good, bad := list.Good(), list.Bad(); len(good) != 3 || !slices.Equal(bad["9"], []string{"bad one"}) {
		t.Errorf("good %v, bad %v", good, bad)
	}
	targets.Tokens = []string{"a", "sim:code=500"}
	if _, code, err = f.Sort(t.Context(), d, targets); err != nil || code != "500" {
		t.Errorf("sorted with %s %v", code, err)
	}
	for title, want := range map[string]string{"sim:code=13": "13", "sim:code=0": "", "sim:receipt=r2": "", "Hi": ""} {
		targets.Tokens = []string{"a"}
		list, code, err := f.Decide(t.Context(), d, title, targets)
		if err != nil || code != want || code == "" && len(list) != 1 || title == "sim:receipt=r2" && list[0].Receipt != "r2" {
			t.Errorf("%s: decided %+v %s %v", title, list, code, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	targets.Tokens = []string{"sim:delay=1h"}
	if _, _, err = f.Sort(ended, d, targets); err == nil {
		t.Error("waited for nobody")
	}
}

func TestForms(t *testing.T) {
	t.Parallel()
	body := url.Values{"a": {`{"push_id":"p1"}`}, "sign": {"s"}}.Encode()
	for kind, good := range map[string]bool{
		"application/x-www-form-urlencoded":                true,
		"application/x-www-form-urlencoded; charset=UTF-8": true,
		"application/x-www-form-urlencoded; charset=GBK":   false,
		"application/json":                                 false,
		"":                                                 false,
	} {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/", strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		form, err := frame.ReadForm(httptest.NewRecorder(), r)
		if (err == nil) != good {
			t.Errorf("%q: %v", kind, err)
		}
		if text := frame.FormText(form, "sign"); good && (frame.PushID([]byte(text)) != "p1" || strings.Contains(text, "sign")) {
			t.Errorf("recorded %s", text)
		}
	}
}
