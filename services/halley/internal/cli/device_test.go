package cli_test

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/halleypush/halley/services/halley/internal/cli"
	"github.com/halleypush/halley/services/halley/internal/site"
)

func TestAPhoneThatIsNotOnlineSaysWhyAndADataFolderComesBeforeTheEnvironment(t *testing.T) {
	closing, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closing.Close()
	came := make(chan struct{}, 1)
	go func() {
		for {
			conn, err := closing.Accept()
			if err != nil {
				return
			}
			_ = conn.Close() // which the phone is to hear of
			select {
			case came <- struct{}{}:
			default:
			}
		}
	}()
	data := t.TempDir()
	demo := site.Demo{App: "demo", ServerKey: "sk_demo", ClientKey: "ck_demo", MQTT: closing.Addr().String()}
	if err := demo.Write(data + "/" + site.DemoFile); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HALLEY_MQTT", "127.0.0.1:1") // another installation's
	ctx, end := context.WithCancel(t.Context())
	defer end()
	lines, writer := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Run(ctx, []string{"--data-dir", data, "device"}, io.Discard, writer)
		_ = writer.Close() // never fails
	}()
	said := newLines(lines)
	said.wait(t, "not online, trying again: ")
	<-came
	end()
	if code := <-ended; code != cli.ExitOK {
		t.Errorf("it ended with %d", code)
	}
}
