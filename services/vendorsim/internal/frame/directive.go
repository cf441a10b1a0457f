package frame

import (
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Verdict is what a switch, or the text of a token or title, wants of the simulator.
type Verdict struct {
	Code    string        // answer this; empty: as usual
	Invalid bool          // the token is dead: answer what the vendor answers then
	Receipt string        // the code of the receipt; empty: as usual
	Delay   time.Duration // before the answer
	At      time.Time     // the time that the answer names, where it names one; zero: now
}

// Ordinary says whether there is nothing to do but the usual.
func (v Verdict) Ordinary() bool { return v.Code == "" && !v.Invalid }

// directivePrefix begins a token or title that says itself what the simulator should do:
//
//	sim:code=80300007          answer this code
//	sim:code=503,times=2       the first two times for this text; then as usual
//	sim:receipt=5              send this receipt
//	sim:delay=2s,code=X        wait before the answer
//	sim:code=Unregistered,at=1732330000000   with this time, in ms
//
// Its parts may be divided by bars as well, for vendors that divide tokens by commas. The directive ends at a space, a semicolon
// or the text's end; what follows makes texts different.
const directivePrefix = "sim:"

// Directive returns what a token or title says about its own answer.
func Directive(text string) (v Verdict, times int, ok bool) {
	text, ok = strings.CutPrefix(text, directivePrefix)
	if !ok {
		return v, 0, false
	}
	if end := strings.IndexAny(text, " ;"); end >= 0 {
		text = text[:end]
	}
	for part := range strings.FieldsFuncSeq(text, func(c rune) bool { return c == ',' || c == '|' }) {
		name, value, _ := strings.Cut(part, "=")
		switch name {
		case "code":
			v.Code = value
		case "receipt":
			v.Receipt = value
		case "delay":
			v.Delay, _ = time.ParseDuration(value) // a directive that is not understood does nothing
		case "times":
			times, _ = strconv.Atoi(value)
		case "at":
			if ms, err := strconv.ParseInt(value, 10, 64); err == nil {
				v.At = time.UnixMilli(ms)
			}
		}
	}
	return v, times, true
}

// maxUses bounds how many used-up directives are remembered; more are answered as if they were used up.
const maxUses = 100_000

// uses counts how often rules and directives were applied.
type uses struct {
	mu    sync.Mutex
	rules map[int]int
	texts map[string]int
}

func newUses() *uses { return &uses{rules: make(map[int]int), texts: make(map[string]int)} }

// text reports whether a text that may be applied so many times (0: always) may be applied once more.
func (u *uses) text(text string, times int) bool {
	if times <= 0 {
		return true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if n, known := u.texts[text]; n >= times || !known && len(u.texts) >= maxUses {
		return false
	}
	u.texts[text]++
	return true
}

func (u *uses) rule(i, times int) bool {
	if times <= 0 {
		return true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.rules[i] >= times {
		return false
	}
	u.rules[i]++
	return true
}

func (u *uses) resetRules() {
	u.mu.Lock()
	defer u.mu.Unlock()
	clear(u.rules)
}

// ForRequest says what should become of a request with a title, as a whole. Vendors ask it once for a request, after they
// have checked it.
func (f *Frame) ForRequest(app, title string) Verdict {
	if v, times, ok := Directive(title); ok && f.uses.text(app+"\x00"+title, times) {
		return v
	}
	for i, r := range f.Switches().Answers {
		if r.Token == "" && fits(r.App, app) && strings.HasPrefix(title, r.Title) && f.applies(i, r) {
			return r.verdict()
		}
	}
	return Verdict{}
}

// ForToken says what should become of one token.
func (f *Frame) ForToken(app, token string) Verdict {
	if v, times, ok := Directive(token); ok && f.uses.text(app+"\x00"+token, times) {
		return v
	}
	s := f.Switches()
	for i, r := range s.Answers {
		if r.Token != "" && fits(r.App, app) && strings.HasPrefix(token, r.Token) && f.applies(i, r) {
			return r.verdict()
		}
	}
	return Verdict{Invalid: s.InvalidShare > 0 && position(token) < s.InvalidShare}
}

func (f *Frame) applies(i int, r Rule) bool {
	return (r.Share == 0 || rand.Float64() < r.Share) && f.uses.rule(i, r.Times)
}

func (r Rule) verdict() Verdict {
	return Verdict{Code: r.Code, Receipt: r.Receipt, Delay: time.Duration(r.Delay)}
}

func fits(want, is string) bool { return want == "" || want == is }

// position maps a text evenly to 0 … 1.
func position(text string) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text)) // never fails
	x := h.Sum64()
	x ^= x >> 33 // FNV's high bits hardly depend on the last bytes
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}
