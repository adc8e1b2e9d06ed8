package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxPIN bounds what is read as a PIN; tokens allow far less.
const maxPIN = 1024

// PINFile returns a Config.PIN that reads a file, such as a systemd credential.
// A file that everybody may read is refused. A newline at the end is dropped.
func PINFile(path string) func(context.Context, string) ([]byte, error) {
	return func(context.Context, string) ([]byte, error) {
		file, err := os.Open(path)
		if err != nil {
			return nil, refused(pinHint, "PIN: %w", err)
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return nil, refused(pinHint, "PIN: %w", err)
		}
		if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o007 != 0 {
			return nil, refused("chmod o= "+path, "PIN: everybody may read %s", path)
		}
		return readPIN(file)
	}
}

// PINDescriptor returns a Config.PIN that reads an inherited file descriptor,
// and closes it.
func PINDescriptor(fd uintptr) func(context.Context, string) ([]byte, error) {
	return func(context.Context, string) ([]byte, error) {
		file := os.NewFile(fd, "PIN descriptor")
		if file == nil {
			return nil, fmt.Errorf("PIN: there is no descriptor %d", fd)
		}
		defer file.Close()
		return readPIN(file)
	}
}

const pinHint = "write the PIN, and nothing else, into a file of your own (chmod 600), and name it with pin-source in the token's URI"

func readPIN(r io.Reader) ([]byte, error) {
	buf := make([]byte, maxPIN+1)
	n, err := io.ReadFull(r, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, refused(pinHint, "PIN: %w", err)
	}
	// Editors leave a line's end, or a mark of the encoding, that nobody sees: a
	// token would count a wrong PIN.
	pin := bytes.TrimPrefix(bytes.TrimRight(buf[:n], "\r\n"), []byte("\xef\xbb\xbf"))
	if len(pin) == 0 || n > maxPIN {
		Wipe(buf)
		return nil, refused(pinHint, "PIN: %d bytes where 1 to %d are expected", len(pin), maxPIN)
	}
	return pin, nil
}

// pin returns the PIN as the URI or the caller gives it, nil if neither does.
// The caller wipes it.
func (c *Config) pin(ctx context.Context, u *URI, token string) ([]byte, error) {
	switch {
	case u.PINValue != "":
		return []byte(u.PINValue), nil
	case u.PINSource != "":
		return pinFromSource(ctx, u.PINSource)
	case c.PIN != nil:
		return c.PIN(ctx, token)
	}
	return nil, nil
}

// pinFromSource reads pin-source: a path, a file: URI, or fd:N of ours. Commands
// ("|..") are allowed by the RFC and refused here: a configuration file must not
// be able to run programs.
func pinFromSource(ctx context.Context, source string) ([]byte, error) {
	if number, ok := strings.CutPrefix(source, "fd:"); ok {
		fd, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return nil, refused("write fd:3", "pin-source: %q is no descriptor", number)
		}
		return PINDescriptor(uintptr(fd))(ctx, "")
	}
	path := strings.TrimPrefix(source, "file://")
	path = strings.TrimPrefix(path, "file:")
	if strings.HasPrefix(path, "|") || strings.Contains(path, "://") {
		return nil, refused("put the PIN into a file that only keymill may read", "pin-source: commands and remote sources are not run")
	}
	return PINFile(path)(ctx, "")
}
