package imaging

import (
	"bytes"
	"testing"
)

func TestOverlayPutsTheKeyIntoTheImage(t *testing.T) {
	g := sample(t, SampleOptions{})
	p := planTest(t, g, Target{Path: agentPath})
	content := bytes.Repeat([]byte("key "), 30)
	o, err := p.Overlay(t.Context(), [][]byte{content})
	if err != nil {
		t.Fatal(err)
	}
	data, err := g.Data()
	if err != nil {
		t.Fatal(err)
	}
	judge(t, produce(t, g, o), data, judged{"/mender/mender-agent.pem", content, "0600"})
}
