package gateway

import (
	"crypto/subtle"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// shed sends some devices elsewhere, at the rate of a drain: POST /shed?sessions=5000 on the operators' port, with the service
// token. It answers at once.
func (g *Gateway) shed(w http.ResponseWriter, r *http.Request) {
	shown := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	want := g.config.ServiceToken.Reveal()
	if want == "" || subtle.ConstantTimeCompare([]byte(shown), []byte(want)) == 0 {
		http.Error(w, "the service token is needed", http.StatusUnauthorized)
		return
	}
	n, err := strconv.Atoi(r.URL.Query().Get("sessions"))
	if err != nil || n < 1 {
		http.Error(w, "sessions must be a number from 1 on", http.StatusBadRequest)
		return
	}
	g.log.InfoContext(r.Context(), "sheds devices", "sessions", n, "rate", g.config.DrainRate)
	g.set.Shed(n, g.config.DrainRate, func(gone int) { g.log.Info("has shed devices", "sessions", gone) })
	w.WriteHeader(http.StatusAccepted)
	_, _ = fmt.Fprintf(w, "up to %d devices go, %d a second\n", n, g.config.DrainRate) // the caller may be gone
}
