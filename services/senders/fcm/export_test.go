package fcm

import "time"

// At has the vendor take a time for now.
func (v *Vendor) At(now time.Time) { v.now = func() time.Time { return now } }
