package session

import "testing"

func TestAPoolForgetsWhatNobodyHasNeededSinceTheLastTrim(t *testing.T) {
	t.Parallel()
	var p Pool
	lent := make([]*active, 100)
	for i := range lent {
		lent[i] = p.take()
	}
	for _, a := range lent {
		p.give(a)
	}
	p.Trim()
	if len(p.spare) != 100 {
		t.Fatalf("after a storm of 100 it keeps %d", len(p.spare))
	}
	for range 10 {
		p.give(p.take())
	}
	for range 3 {
		a, b := p.take(), p.take()
		p.give(b)
		p.give(a)
	}
	if p.Trim(); len(p.spare) != 2 {
		t.Errorf("with 2 in use at a time it keeps %d", len(p.spare))
	}
	if p.Trim(); len(p.spare) != 0 {
		t.Errorf("with none in use it keeps %d", len(p.spare))
	}
}
