package websocket

import (
	"bufio"
	"bytes"
	"crypto/sha1" //nolint:gosec // the protocol's own choice, and no secret
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
)

const (
	// Path is where MQTT over WebSocket is spoken.
	Path = "/mqtt"
	// maxHead bounds a request, in bytes.
	maxHead = 8 << 10
	// subprotocol is what a client must ask for (6.0 of the MQTT standard).
	subprotocol = "mqtt"
	// magic turns a client's key into the server's answer (RFC 6455, 1.3).
	magic = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
)

// Request looks for a complete request at the beginning of what came from a client. It returns the answer, whether WebSocket is
// spoken after it, and the request's length; 0 while it is not complete. It answers any origin: what a device may do hangs on its
// token and secret, not on the page that it runs in.
func Request(data []byte) (answer []byte, ok bool, used int) {
	end := bytes.Index(data[:min(len(data), maxHead)], []byte("\r\n\r\n"))
	if end < 0 && len(data) < maxHead {
		return nil, false, 0
	}
	if end < 0 {
		return refuse(http.StatusRequestHeaderFieldsTooLarge, "the request is too large"), false, len(data)
	}
	used = end + 4
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(data[:used])))
	switch {
	case err != nil:
		return refuse(http.StatusBadRequest, "this is not HTTP"), false, used
	case r.URL.Path != Path:
		return refuse(http.StatusNotFound, "MQTT over WebSocket is at "+Path), false, used
	}
	answer, ok = Upgrade(r)
	return answer, ok, used
}

// Upgrade returns the answer to a request for MQTT over WebSocket, and whether that is spoken after it.
func Upgrade(r *http.Request) (answer []byte, ok bool) {
	key := r.Header.Get("Sec-WebSocket-Key")
	decoded, err := base64.StdEncoding.DecodeString(key)
	switch {
	case r.Method != http.MethodGet || !r.ProtoAtLeast(1, 1):
		return refuse(http.StatusMethodNotAllowed, "WebSocket begins with a GET of HTTP/1.1", "Allow: GET"), false
	case !has(r.Header, "Connection", "upgrade") || !has(r.Header, "Upgrade", "websocket"):
		return refuse(http.StatusUpgradeRequired, "this is WebSocket", "Upgrade: websocket"), false
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return refuse(http.StatusUpgradeRequired, "WebSocket has version 13", "Upgrade: websocket", "Sec-WebSocket-Version: 13"), false
	case err != nil || len(decoded) != 16:
		return refuse(http.StatusBadRequest, "Sec-WebSocket-Key must be 16 bytes in base64"), false
	case !has(r.Header, "Sec-WebSocket-Protocol", subprotocol):
		return refuse(http.StatusBadRequest, "ask for the subprotocol "+subprotocol), false
	}
	sum := sha1.Sum([]byte(key + magic)) //nolint:gosec // as above
	return fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]), subprotocol), true
}

// has reports whether a header that holds a list has a word, in whatever case.
func has(h http.Header, name, word string) bool {
	for _, value := range h.Values(name) {
		for item := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(item), word) {
				return true
			}
		}
	}
	return false
}

// refuse returns an answer after which the connection is closed.
func refuse(code int, reason string, headers ...string) []byte {
	b := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n",
		code, http.StatusText(code), len(reason)+1)
	for _, h := range headers {
		b = append(append(b, h...), "\r\n"...)
	}
	return append(append(append(b, "\r\n"...), reason...), '\n')
}
