// Command protodeps writes the third-party .proto files that ours import into a folder, printed from the descriptors
// inside the Go modules that tools/gen/go.mod pins: the schema registry is not needed, and nothing third-party is committed.
package main

import (
	"log"
	"os"

	_ "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/jhump/protoreflect/v2/protoprint"
	_ "google.golang.org/genproto/googleapis/api/annotations"
	_ "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// What our files import; files under google/protobuf come with buf itself.
var wanted = []string{
	"buf/validate/validate.proto",
	"google/api/annotations.proto",
	"google/api/field_behavior.proto",
	"google/api/http.proto",
	"google/rpc/status.proto",
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: protodeps FOLDER")
	}
	var files []protoreflect.FileDescriptor
	for _, path := range wanted {
		file, err := protoregistry.GlobalFiles.FindFileByPath(path)
		if err != nil {
			log.Fatalf("find %s: %v", path, err)
		}
		files = append(files, file)
	}
	if err := (&protoprint.Printer{}).PrintProtosToFileSystem(files, os.Args[1]); err != nil {
		log.Fatalf("print: %v", err)
	}
}
