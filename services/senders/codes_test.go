// Package senders_test checks what all vendors' packages have in common.
package senders_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/halleypush/halley/pkg/channel"
	"github.com/halleypush/halley/pkg/sender"
	"github.com/halleypush/halley/services/senders/apns"
	"github.com/halleypush/halley/services/senders/fcm"
	"github.com/halleypush/halley/services/senders/harmony"
	"github.com/halleypush/halley/services/senders/honor"
	"github.com/halleypush/halley/services/senders/huawei"
	"github.com/halleypush/halley/services/senders/internal/hms"
	"github.com/halleypush/halley/services/senders/internal/vendortest"
	"github.com/halleypush/halley/services/senders/meizu"
	"github.com/halleypush/halley/services/senders/oppo"
	"github.com/halleypush/halley/services/senders/vivo"
	"github.com/halleypush/halley/services/senders/webpush"
	"github.com/halleypush/halley/services/senders/xiaomi"
)

// page is where the table of all codes is.
const page = "../../docs/channels/codes.md"

const head = `# Every vendor's codes, and what each comes to

This page is made by ` + "`TestTheTableOfCodesIsTrue`" + ` of services/senders from the vendors' packages, whose own tests send every code and check its outcome.
What an outcome means is in [the overview](README.md); "target" is a code of a single device in an answer about many. A code that is not here is
tried again if the HTTP status is 408, 429 or 5xx, and rejected if not, unless the vendor's section says otherwise; it is shown with the delivery's attempts.
`

var names = map[sender.ReceiptKind]string{
	sender.ReceiptUnknown: "counted", sender.ReceiptArrived: "arrived", sender.ReceiptShown: "shown", sender.ReceiptClicked: "clicked",
	sender.ReceiptTokenGone: "token gone", sender.ReceiptDropped: "dropped",
}

// TestTheTableOfCodesIsTrue compares the page with the packages. With HALLEY_GOLDEN=write it is written.
func TestTheTableOfCodesIsTrue(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString(head)
	codes := map[string]sender.Codes{
		channel.APNs: ofAPNs(), channel.FCM: fcm.Codes(), channel.Huawei: huawei.Codes(), channel.Harmony: harmony.Codes(),
		channel.Honor: honor.Codes(), channel.Xiaomi: xiaomi.Codes(), channel.OPPO: oppo.Codes(), channel.Vivo: vivo.Codes(),
		channel.Meizu: meizu.Codes(), channel.WebPush: webpush.Codes(),
	}
	receipts := map[string][]sender.ReceiptCode{
		channel.Huawei: hms.ReceiptCodes(), channel.Harmony: hms.ReceiptCodes(), channel.Honor: honor.ReceiptCodes(),
		channel.Xiaomi: xiaomi.ReceiptCodes(), channel.OPPO: oppo.ReceiptCodes(), channel.Meizu: meizu.ReceiptCodes(),
	}
	for _, name := range channel.Vendors() {
		if len(codes[name]) == 0 {
			t.Errorf("%s has no codes", name)
		}
		fmt.Fprintf(&text, "\n## %s\n\n| answer | outcome | |\n|---|---|---|\n", name)
		seen := map[string]bool{}
		for _, c := range codes[name] {
			if seen[c.Code] {
				t.Errorf("%s has %s twice", name, c.Code)
			}
			seen[c.Code] = true
			fmt.Fprintf(&text, "| `%s` | %s | %s |\n", c.Code, vendortest.Name(c.Outcome), c.Meaning)
		}
		if len(receipts[name]) > 0 {
			text.WriteString("\n| receipt | what it comes to | |\n|---|---|---|\n")
		}
		for _, c := range receipts[name] {
			fmt.Fprintf(&text, "| `%s` | %s | %s |\n", c.Code, names[c.What], c.Meaning)
		}
	}
	if os.Getenv("HALLEY_GOLDEN") == "write" {
		if err := os.WriteFile(page, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	is, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(is), text.String()); diff != "" {
		t.Errorf("the page (-) is not what the packages say (+); HALLEY_GOLDEN=write go test ./services/senders writes it:\n%s", diff)
	}
}

// ofAPNs returns Apple's answers, which are a status and a reason.
func ofAPNs() (all sender.Codes) {
	for _, c := range apns.Codes() {
		all = append(all, sender.Code{Code: strings.TrimSpace(fmt.Sprintf("%d %s", c.Status, c.Reason)), Outcome: c.Outcome})
	}
	return all
}
