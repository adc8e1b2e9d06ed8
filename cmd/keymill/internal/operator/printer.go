package operator

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// printerLimit is how long one exchange with a printer may take.
const printerLimit = 5 * time.Second

// OpenPrinter returns the printer that a setting names: tcp://HOST[:9100],
// cups:NAME or file:DIR. format is that of the labels, by which files are named.
func OpenPrinter(name, format string) (Printer, error) {
	switch {
	case strings.HasPrefix(name, "tcp://"):
		u, err := url.Parse(name)
		if err != nil || u.Hostname() == "" {
			return nil, fmt.Errorf("%q names no printer; write tcp://HOST:9100", name)
		}
		port := u.Port()
		if port == "" {
			port = "9100"
		}
		if format != "zpl" {
			return nil, fmt.Errorf("the printer %s takes ZPL, but the labels are %s; use cups:NAME or file:DIR", name, format)
		}
		return &zplPrinter{address: net.JoinHostPort(u.Hostname(), port)}, nil
	case strings.HasPrefix(name, "cups:") && len(name) > 5:
		return &cupsPrinter{queue: name[5:], raw: format == "zpl"}, nil
	case strings.HasPrefix(name, "file:") && len(name) > 5:
		return &folderPrinter{dir: name[5:], format: format}, nil
	}
	return nil, fmt.Errorf("%q names no printer; write tcp://HOST:9100, cups:NAME or file:DIR", name)
}

// zplPrinter is a printer that speaks ZPL II on a TCP port. It is asked ~HS before
// and after each label.
type zplPrinter struct{ address string }

func (p *zplPrinter) String() string { return "tcp://" + p.address }

// hostStatus is what ~HS returns, as far as it is needed (ZPL II Programming
// Guide, ~HS).
type hostStatus struct {
	paperOut, paused, headOpen, ribbonOut bool
	overTemperature, corruptMemory        bool
	formats, remaining                    int // labels that it has not printed yet
	partial                               bool
}

// fault says why the printer doesn't print; empty where it would.
func (s *hostStatus) fault() string {
	switch {
	case s.paperOut:
		return "is out of paper"
	case s.headOpen:
		return "is open: close the print head"
	case s.ribbonOut:
		return "is out of ribbon"
	case s.overTemperature:
		return "is too hot"
	case s.corruptMemory:
		return "has lost its settings"
	case s.paused:
		return "is paused"
	}
	return ""
}

// parseHostStatus reads the three strings of ~HS, each between STX and ETX.
func parseHostStatus(lines []string) (*hostStatus, error) {
	if len(lines) < 2 {
		return nil, errors.New("the printer's status has fewer than two lines")
	}
	one, two := strings.Split(lines[0], ","), strings.Split(lines[1], ",")
	if len(one) < 12 || len(two) < 9 {
		return nil, fmt.Errorf("the printer's status has %d and %d fields, not 12 and 11", len(one), len(two))
	}
	flag := func(list []string, i int) bool { return strings.TrimSpace(list[i]) == "1" }
	s := &hostStatus{
		paperOut: flag(one, 1), paused: flag(one, 2), partial: flag(one, 7),
		corruptMemory: flag(one, 9), overTemperature: flag(one, 11),
		headOpen: flag(two, 2), ribbonOut: flag(two, 3),
	}
	var err error
	if s.formats, err = strconv.Atoi(strings.TrimSpace(one[4])); err != nil {
		return nil, fmt.Errorf("the printer's status: %w", err)
	}
	if s.remaining, err = strconv.Atoi(strings.TrimSpace(two[8])); err != nil {
		return nil, fmt.Errorf("the printer's status: %w", err)
	}
	return s, nil
}

// splitStatus is a bufio.SplitFunc for texts between STX and ETX.
func splitStatus(data []byte, atEOF bool) (advance int, token []byte, err error) {
	from := bytes.IndexByte(data, 2)
	if from < 0 {
		return len(data), nil, nil
	}
	if to := bytes.IndexByte(data[from:], 3); to > 0 {
		return from + to + 1, data[from+1 : from+to], nil
	}
	if atEOF {
		return len(data), nil, nil
	}
	return from, nil, nil
}

// talk opens a connection for one exchange.
func (p *zplPrinter) talk(ctx context.Context, do func(conn net.Conn, lines *bufio.Scanner) error) error {
	ctx, stop := context.WithTimeout(ctx, printerLimit)
	defer stop()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", p.address)
	if err != nil {
		return &PrinterError{Text: "does not answer at " + p.address}
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	lines := bufio.NewScanner(io.LimitReader(conn, 64<<10))
	lines.Split(splitStatus)
	return do(conn, lines)
}

func (p *zplPrinter) status(conn net.Conn, lines *bufio.Scanner) (*hostStatus, error) {
	if _, err := io.WriteString(conn, "~HS\r\n"); err != nil {
		return nil, &PrinterError{Text: "hung up"}
	}
	var got []string
	for len(got) < 3 && lines.Scan() {
		got = append(got, lines.Text())
	}
	if len(got) < 3 {
		return nil, &PrinterError{Text: "does not say how it is (~HS)"}
	}
	status, err := parseHostStatus(got)
	if err != nil {
		return nil, &PrinterError{Text: "said something that is no status: " + err.Error()}
	}
	return status, nil
}

func (p *zplPrinter) Ready(ctx context.Context) error {
	return p.talk(ctx, func(conn net.Conn, lines *bufio.Scanner) error {
		status, err := p.status(conn, lines)
		if err != nil {
			return err
		}
		if fault := status.fault(); fault != "" {
			return &PrinterError{Text: fault}
		}
		return nil
	})
}

func (p *zplPrinter) Print(ctx context.Context, _ string, data []byte) error {
	err := p.talk(ctx, func(conn net.Conn, lines *bufio.Scanner) error {
		status, err := p.status(conn, lines)
		if err != nil {
			return err
		}
		if fault := status.fault(); fault != "" {
			return &PrinterError{Text: fault}
		}
		if _, err := conn.Write(data); err != nil {
			return &PrinterError{Text: "hung up"}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.Settle(ctx)
}

// Settle asks until the printer has nothing left to print. A printer that ran out
// of paper keeps the label and prints it once it has some.
func (p *zplPrinter) Settle(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, 10*printerLimit)
	defer stop()
	for {
		pending, fault := false, ""
		err := p.talk(ctx, func(conn net.Conn, lines *bufio.Scanner) error {
			status, err := p.status(conn, lines)
			if err != nil {
				return err
			}
			pending, fault = status.formats > 0 || status.remaining > 0 || status.partial, status.fault()
			return nil
		})
		refused, ok := errors.AsType[*PrinterError](err)
		switch {
		case ok:
			return &PrinterError{Text: refused.Text, Queued: true}
		case err != nil:
			return err
		case !pending:
			return nil
		case fault != "":
			return &PrinterError{Text: fault, Queued: true}
		}
		select {
		case <-ctx.Done():
			return &PrinterError{Text: "does not get on with its labels", Queued: true}
		case <-time.After(150 * time.Millisecond):
		}
	}
}

// cupsPrinter prints by lp.
type cupsPrinter struct {
	queue string
	raw   bool
}

func (p *cupsPrinter) String() string { return "cups:" + p.queue }

func (p *cupsPrinter) Ready(ctx context.Context) error {
	out, err := runProgram(ctx, printerLimit, []string{"lpstat", "-p", p.queue}, nil, hookMost)
	switch {
	case err != nil:
		return &PrinterError{Text: fmt.Sprintf("%s is not known to CUPS: %v", p.queue, err)}
	case bytes.Contains(out, []byte("disabled")):
		return &PrinterError{Text: "is stopped in CUPS: cupsenable " + p.queue}
	}
	return nil
}

func (p *cupsPrinter) Print(ctx context.Context, name string, data []byte) error {
	if err := p.Ready(ctx); err != nil {
		return err
	}
	command := []string{"lp", "-d", p.queue, "-t", "keymill " + name}
	if p.raw {
		command = append(command, "-o", "raw")
	}
	if _, err := runProgram(ctx, printerLimit, append(command, "-"), bytes.NewReader(data), hookMost); err != nil {
		return &PrinterError{Text: fmt.Sprintf("takes nothing: lp: %v", err)}
	}
	return nil
}

func (p *cupsPrinter) Settle(context.Context) error { return nil }

// folderPrinter writes labels to files: for trials, and for printers that some
// other program feeds.
type folderPrinter struct{ dir, format string }

func (p *folderPrinter) String() string { return "file:" + p.dir }

func (p *folderPrinter) Ready(context.Context) error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return &PrinterError{Text: "is a folder that can't be written: " + err.Error()}
	}
	return nil
}

func (p *folderPrinter) Print(ctx context.Context, name string, data []byte) error {
	if err := p.Ready(ctx); err != nil {
		return err
	}
	path := filepath.Join(p.dir, name+"."+p.format)
	err := os.WriteFile(path+".part", data, 0o600)
	if err == nil {
		err = os.Rename(path+".part", path)
	}
	if err != nil {
		return &PrinterError{Text: "is a folder that can't be written: " + err.Error()}
	}
	return nil
}

func (p *folderPrinter) Settle(context.Context) error { return nil }
