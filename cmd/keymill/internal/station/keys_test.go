package station

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"keymill/cmd/keymill/internal/fault"
	"keymill/hsm"
	"keymill/pipeline"
)

// TestWhoseOutageItIs: a token that is gone and a disk that is full stop the run
// with a code each; what else fails is one device's.
func TestWhoseOutageItIs(t *testing.T) {
	for code, err := range map[fault.Kind]error{
		fault.HSM: &hsm.GoneError{Err: errors.New("gone"), Hint: "connect it"}, fault.Storage: fmt.Errorf("journal: %w", syscall.ENOSPC), fault.Internal: errors.New("odd"),
	} {
		keys := &stationKeys{Source: failingKeys{err: err}}
		_, _, got := keys.Generate(t.Context(), "device")
		_, stops := errors.AsType[*pipeline.Outage](got)
		if fault.KindOf(got) != code || stops != (code != fault.Internal) || stops && fault.Hint(got) == "" {
			t.Errorf("%v: kind %d, want %d; stops the run: %v", err, fault.KindOf(got), code, stops)
		}
	}
}

type failingKeys struct {
	hsm.Source
	err error
}

func (f failingKeys) Generate(context.Context, string) (private, public []byte, err error) {
	return nil, nil, f.err
}
