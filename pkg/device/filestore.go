package device

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	identityFile = "identity.json"
	seenFile     = "seen"
	// maxSeenLine bounds a line of the file of push ids, in bytes; longer ids are not remembered.
	maxSeenLine = 128
)

// fileStore keeps the identity in one file, replaced as a whole, and the push ids in another, one a line, which is only
// appended to until it has twice as many as are needed.
type fileStore struct {
	dir   string
	ids   []string // what the file of push ids holds; the first to write it reads it
	known bool     // whether ids is what the file holds
}

// FileStore returns a store in a folder of the device's own, which is made if it is missing. Its files are readable for their
// owner only.
func FileStore(dir string) Store { return &fileStore{dir: dir} }

var _ Store = (*fileStore)(nil)

func (f *fileStore) Load(context.Context) (Identity, []string, error) {
	var i Identity
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return i, nil, err
	}
	text, err := os.ReadFile(filepath.Join(f.dir, identityFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return i, nil, err
	}
	if err == nil {
		if err := json.Unmarshal(text, &i); err != nil {
			return i, nil, fmt.Errorf("%s: %w", filepath.Join(f.dir, identityFile), err)
		}
	}
	if err := f.compact(); err != nil {
		return i, nil, err
	}
	return i, append([]string(nil), f.ids...), nil
}

func (f *fileStore) SaveIdentity(_ context.Context, i Identity) error {
	text, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return replace(f.dir, identityFile, append(text, '\n'))
}

func (f *fileStore) LoadRhythms(context.Context) (rhythms map[string]Rhythm, err error) {
	text, err := os.ReadFile(filepath.Join(f.dir, rhythmsFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	if err := json.Unmarshal(text, &rhythms); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(f.dir, rhythmsFile), err)
	}
	return rhythms, nil
}

func (f *fileStore) SaveRhythms(_ context.Context, rhythms map[string]Rhythm) error {
	text, err := json.Marshal(rhythms)
	if err != nil {
		return err
	}
	return replace(f.dir, rhythmsFile, append(text, '\n'))
}

// AddSeen appends one line. It is not forced to the disk: a push id that a power cut takes costs a repeat.
func (f *fileStore) AddSeen(_ context.Context, pushID string) error {
	if len(pushID) > maxSeenLine || strings.ContainsAny(pushID, "\r\n") {
		return nil
	}
	if !f.known || len(f.ids) >= 2*keepSeen {
		if err := f.compact(); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(filepath.Join(f.dir, seenFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if _, err := file.WriteString(pushID + "\n"); err != nil {
		f.known = false // part of a line may be there
		return errors.Join(err, file.Close())
	}
	f.ids = append(f.ids, pushID)
	return file.Close()
}

// compact reads the push ids and rewrites the file if it holds more than is needed, or a line that was cut off.
func (f *fileStore) compact() error {
	text, err := os.ReadFile(filepath.Join(f.dir, seenFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	whole := text[:bytes.LastIndexByte(text, '\n')+1]
	var ids []string
	lines := bufio.NewScanner(bytes.NewReader(whole))
	for lines.Scan() {
		ids = append(ids, lines.Text())
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(f.dir, seenFile), err)
	}
	if len(ids) > keepSeen || len(whole) != len(text) {
		ids = ids[max(0, len(ids)-keepSeen):]
		if err := replace(f.dir, seenFile, []byte(strings.Join(append(ids, ""), "\n"))); err != nil {
			return err
		}
	}
	f.ids, f.known = ids, true
	return nil
}

// replace writes a file so that after a crash either the old or the new one is there, whole.
func replace(dir, name string, content []byte) error {
	file, err := os.CreateTemp(dir, name+".*") // 0600
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
