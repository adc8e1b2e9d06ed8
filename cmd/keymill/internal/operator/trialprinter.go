package operator

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
)

// TrialPrinter plays a label printer on TCP, for the demo and for tests: it takes
// ZPL and answers ~HS. Without paper it keeps what it is sent, and prints it once
// it has some.
type TrialPrinter struct {
	// Printed is told each label that is out; it may be nil.
	Printed func(zpl string)

	ln    net.Listener
	group sync.WaitGroup

	mu      sync.Mutex
	paper   bool
	held    []string
	labels  int
	asked   int
	talking map[net.Conn]bool
}

// NewTrialPrinter listens on loopback and has paper.
func NewTrialPrinter(ctx context.Context, printed func(zpl string)) (*TrialPrinter, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &TrialPrinter{Printed: printed, ln: ln, paper: true, talking: map[net.Conn]bool{}}
	p.group.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.talking[conn] = true
			p.mu.Unlock()
			p.group.Go(func() { p.serve(conn) })
		}
	})
	return p, nil
}

// Name is what label.printer calls it.
func (p *TrialPrinter) Name() string { return "tcp://" + p.ln.Addr().String() }

// Close stops it.
func (p *TrialPrinter) Close() error {
	err := p.ln.Close()
	p.mu.Lock()
	for conn := range p.talking {
		err = errors.Join(err, conn.Close())
	}
	p.mu.Unlock()
	p.group.Wait()
	return err
}

// SetPaper gives it paper, or takes it away.
func (p *TrialPrinter) SetPaper(paper bool) {
	p.mu.Lock()
	var out []string
	if p.paper = paper; paper {
		out, p.held = p.held, nil
		p.labels += len(out)
	}
	p.mu.Unlock()
	for _, zpl := range out {
		p.tell(zpl)
	}
}

// Labels is how many labels are out.
func (p *TrialPrinter) Labels() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.labels
}

func (p *TrialPrinter) tell(zpl string) {
	if p.Printed != nil {
		p.Printed(zpl)
	}
}

func (p *TrialPrinter) serve(conn net.Conn) {
	defer func() {
		conn.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.talking, conn)
	}()
	r := bufio.NewReader(conn)
	var text []byte
	for {
		c, err := r.ReadByte()
		if err != nil {
			return
		}
		text = append(text, c)
		switch {
		case strings.HasSuffix(string(text[max(0, len(text)-3):]), "~HS"):
			text = nil
			if _, err := conn.Write([]byte(p.status())); err != nil {
				return
			}
		case strings.HasSuffix(string(text[max(0, len(text)-3):]), "^XZ"):
			p.take(strings.TrimSpace(string(text)))
			text = nil
		}
	}
}

// status is the answer to ~HS.
func (p *TrialPrinter) status() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	out := 0
	if !p.paper {
		out = 1
	}
	return fmt.Sprintf("\x02030,%d,0,0300,%03d,0,0,0,000,0,0,0\x03\r\n\x02001,0,0,0,1,2,6,0,00000000,1,000\x03\r\n\x021234,0\x03\r\n", out, len(p.held))
}

func (p *TrialPrinter) take(zpl string) {
	p.mu.Lock()
	if !p.paper {
		p.held = append(p.held, zpl)
		p.mu.Unlock()
		return
	}
	p.labels++
	p.mu.Unlock()
	p.tell(zpl)
}
