package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// print writes a message as JSON, or calls text.
func (g *globals) print(m proto.Message, text func()) error {
	if g.output == "json" {
		data, err := (protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true, Multiline: true}).Marshal(m)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(g.out, string(data))
		return err
	}
	text()
	return nil
}

// table writes rows in columns; the first row is the head.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

func at(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format(time.DateTime)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
