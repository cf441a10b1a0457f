package channel

import (
	"slices"
	"testing"
)

func TestStoredNumbersStay(t *testing.T) {
	t.Parallel()
	for number, name := range map[int16]string{
		0: "halley", 1: "apns", 2: "fcm", 3: "huawei", 4: "harmony", 5: "honor", 6: "xiaomi", 7: "oppo", 8: "vivo", 9: "meizu",
		10: "webpush", 11: "", -1: "",
	} {
		if Name(number) != name {
			t.Errorf("channel %d is %q, not %q", number, Name(number), name)
		}
		if got, known := Number(name); known != (name != "") || known && got != number {
			t.Errorf("channel %q has number %d, %v", name, got, known)
		}
	}
}

func TestEveryChannelButTheOwnIsAVendors(t *testing.T) {
	t.Parallel()
	vendors := append(Vendors(), Own)
	slices.Sort(vendors)
	all := slices.Sorted(slices.Values(numbers))
	if !slices.Equal(vendors, all) {
		t.Errorf("vendors and the own channel are %v, of %v", vendors, all)
	}
}
