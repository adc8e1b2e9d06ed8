package files

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
)

// Lock takes the lock that lets one instance at a time work on a folder.
// The kernel holds it with the open file, so it ends with the process however
// that ends, and children don't inherit it. The file says who holds the lock; it
// stays when the lock is given up, as removing it would let two hold one each.
func Lock(path, what string) (io.Closer, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.StorageOutage(err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder, err := io.ReadAll(io.LimitReader(file, 256))
		return nil, errors.Join(err, file.Close(), fault.As(fault.Usage, pipeline.WithHint(
			fmt.Errorf("another keymill works on %s: %s", what, strings.TrimSpace(string(holder))),
			"Let it end, or stop it with SIGTERM; what it leaves is taken up by the next one.")))
	}
	if err != nil {
		return nil, errors.Join(fault.StorageOutage(fmt.Errorf("%s: %w", path, err)), file.Close())
	}
	host, err := os.Hostname()
	if err != nil {
		host = "this machine"
	}
	holder := fmt.Sprintf("process %d on %s since %s\n", os.Getpid(), host, time.Now().UTC().Format(time.RFC3339))
	if err := errors.Join(file.Truncate(0), writeAt(file, holder)); err != nil {
		return nil, errors.Join(fault.StorageOutage(err), file.Close())
	}
	return file, nil
}

func writeAt(file *os.File, text string) error {
	_, err := file.WriteAt([]byte(text), 0)
	return err
}
