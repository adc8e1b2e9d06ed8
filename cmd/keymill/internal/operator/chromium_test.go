package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser is a real Chromium that shows the page.
type browser struct {
	t   *testing.T
	ctx context.Context
	axe string
}

// openChromium starts Debian's Chromium.
func openChromium(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	axe, axeErr := os.ReadFile(filepath.Join(npmModules(t), "axe-core/axe.min.js"))
	if err != nil || axeErr != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("chromium and axe-core are missing; .ci/setup test installs them: %v, %v", err, axeErr)
		}
		t.Skipf("chromium or axe-core is missing (.ci/setup test installs them): %v, %v", err, axeErr)
	}
	dir, err := os.MkdirTemp("", "keymill-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // Chromium's last processes may still write
		for range 100 {
			if os.RemoveAll(dir) == nil {
				return
			}
			<-time.After(20 * time.Millisecond)
		}
	})
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.UserDataDir(dir),
		chromedp.WSURLReadTimeout(3*time.Minute))
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, stopTab := chromedp.NewContext(ctx, chromedp.WithErrorf(t.Logf)) // it knows fewer errors than Chromium has
	t.Cleanup(stopTab)
	ctx, stopTime := context.WithTimeout(ctx, 8*time.Minute)
	t.Cleanup(stopTime)
	return &browser{t, ctx, string(axe)}
}

func npmModules(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("NPM_JUDGES"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(home, ".cache/keymill/npm/node_modules")
}

// do runs actions in the browser.
func (c *browser) do(actions ...chromedp.Action) {
	c.t.Helper()
	if err := chromedp.Run(c.ctx, actions...); err != nil {
		c.t.Fatal(err)
	}
}

// open loads the page, and waits until it listens.
func (c *browser) open(url string) {
	c.t.Helper()
	c.do(chromedp.Navigate(url), chromedp.WaitReady("#main"))
}

// typeScan types a scan as fast as a scanner does. The keys are pressed in the
// page, all in one go: sent one by one from here, a busy machine would part them
// by more than the silence that ends a scan.
func (c *browser) typeScan(text string) {
	c.t.Helper()
	c.do(chromedp.Evaluate(fmt.Sprintf(`for (const key of [...%q, "Enter"])
		document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}))`, text), nil))
}

// sees waits until a screen is shown that holds a text.
func (c *browser) sees(screen, text string) {
	c.t.Helper()
	c.waits(fmt.Sprintf(`document.querySelector("#main.on-%s") && document.getElementById("main").innerText.includes(%q)`, screen, text))
}

func (c *browser) waits(condition string) {
	c.t.Helper()
	ctx, stop := context.WithTimeout(c.ctx, 2*time.Minute)
	defer stop()
	if err := chromedp.Run(ctx, chromedp.Poll(condition, nil, chromedp.WithPollingTimeout(0))); err != nil {
		var text string
		_ = chromedp.Run(c.ctx, chromedp.Evaluate(`document.body.innerText`, &text))
		c.t.Fatalf("the page never came to %s: %v; it shows %q", condition, err, text)
	}
}

// sizes are a bench's screen, and a 10-inch tablet in portrait.
var sizes = []struct {
	name          string
	width, height int64
}{{"1280x800", 1280, 800}, {"tablet", 800, 1280}}

// check has axe-core judge the screen at both sizes, makes sure that nothing
// overflows and that targets are 20 mm large, and keeps pictures where
// STATION_SCREENSHOTS names a folder.
func (c *browser) check(name string) {
	c.t.Helper()
	for _, size := range sizes {
		var violations, wrong string
		c.do(emulation.SetDeviceMetricsOverride(size.width, size.height, 1, false),
			chromedp.Evaluate(c.axe, nil),
			chromedp.Evaluate(`axe.run(document, {resultTypes: ["violations"]}).then((r) => JSON.stringify(r.violations.map((v) => [v.id, v.help, v.nodes.map((n) => n.html + " " + n.failureSummary)]), null, 1))`,
				&violations, awaited),
			chromedp.Evaluate(`(() => {
  const bad = [];
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth) bad.push("wider than the screen: " + page.scrollWidth);
  const mm = 96 / 25.4;
  for (const b of document.querySelectorAll("#main button")) {
    const r = b.getBoundingClientRect();
    if (r.width < 20 * mm - 0.5 || r.height < 20 * mm - 0.5) bad.push("a target of " + r.width + " x " + r.height + ": " + b.innerText);
  }
  const message = document.querySelector(".message");
  if (message && parseFloat(getComputedStyle(message).fontSize) < 40) bad.push("small letters");
  const main = document.getElementById("main");
  if (main && main.getBoundingClientRect().bottom > innerHeight + 600) bad.push("the instruction is cut");
  return bad.join("; ");
})()`, &wrong))
		if violations != "[]" {
			c.t.Errorf("%s, %s: axe-core: %s", name, size.name, violations)
		}
		if wrong != "" {
			c.t.Errorf("%s, %s: %s", name, size.name, wrong)
		}
		if dir := os.Getenv("STATION_SCREENSHOTS"); dir != "" {
			var picture []byte
			c.do(chromedp.CaptureScreenshot(&picture))
			if err := os.WriteFile(filepath.Join(dir, name+"-"+size.name+".png"), c.small(picture), 0o644); err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// small reduces a picture to its most frequent colours, for a small file.
func (c *browser) small(picture []byte) []byte {
	c.t.Helper()
	img, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		c.t.Fatal(err)
	}
	count := map[color.Color]int{}
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			count[img.At(x, y)]++
		}
	}
	palette := color.Palette(slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return count[b] - count[a] }))
	out := image.NewPaletted(img.Bounds(), palette[:min(len(palette), 32)])
	draw.Draw(out, out.Bounds(), img, image.Point{}, draw.Src)
	var data bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&data, out); err != nil {
		c.t.Fatal(err)
	}
	return data.Bytes()
}

// reloads loads the page again, which must show the same and do nothing.
func (c *browser) reloads(b *bench) {
	c.t.Helper()
	before, _ := b.View()
	units := b.lot.states()
	c.do(chromedp.Reload(), chromedp.WaitReady("#main"))
	c.waits(`document.getElementById("viewer").hidden`)
	after, _ := b.View()
	if after.Screen != before.Screen || after.Message != before.Message || b.lot.states() != units {
		c.t.Errorf("a reload changed %s (%s) to %s (%s)", before.Screen, before.Message, after.Screen, after.Message)
	}
}

func TestScreens(t *testing.T) {
	c := openChromium(t)
	s := serve(t, 40, 4, func(b *bench, o *Options) {
		withBadges(t)(b, o)
		o.Silence = time.Minute // so that a slow machine does not cut a scan in two
		o.Call = map[string]string{"printer": "Eve, 4712", "server": "IT, 4711"}
	})
	c.open(s.url)
	c.sees("badge", "Scan your badge")
	c.check("badge")
	c.reloads(s.bench)
	c.typeScan("B1001")
	c.sees("ready", "Scan the next unit")
	c.check("ready")
	c.reloads(s.bench)

	// A medium that is not blank, and the supervisor.
	s.press.set("/dev/fake2", &Contents{Bytes: 1 << 30, Holds: HoldsForeign, Detail: "3 partitions"})
	s.places[1].plug()
	c.sees("slots", "not blank")
	c.check("medium")
	c.reloads(s.bench)
	c.typeScan("S2001")
	c.sees("supervisor", "enter your PIN")
	c.check("supervisor-pin")
	c.reloads(s.bench)
	// In one go: keys that are sent one by one may meet a page that is being drawn again.
	c.do(chromedp.WaitVisible("#pincode"), chromedp.Evaluate(`document.getElementById("pincode").value = "4711"; document.getElementById("pin").requestSubmit()`, nil))
	c.sees("supervisor", "Why?")
	c.check("supervisor")
	c.reloads(s.bench)
	c.do(chromedp.Click(`[data-scan="REASON 3"]`))
	c.sees("ready", "Scan the next unit")

	s.places[1].pull()
	s.press.blank("/dev/fake2")
	s.waitUntil(func(v *View) bool { return v.Slots[1].State == "empty" })
	c.typeScan("SN0001")
	c.sees("slots", "Put a medium into slot 1")
	c.check("slots")
	c.reloads(s.bench)
	s.press.slow(time.Hour)
	s.places[0].plug()
	s.waitUntil(func(v *View) bool { return v.Slots[0].State == "writing" })
	c.sees("ready", "Scan the next unit")
	c.check("writing")
	s.press.slow(30 * time.Millisecond)
	s.press.free()
	c.sees("pass", "Stick the label on, scan it")
	c.check("pass")
	c.reloads(s.bench)
	c.typeScan("REPRINT")
	c.sees("reason", "Why?")
	c.check("reason")
	c.reloads(s.bench)
	c.typeScan("CANCEL")
	c.typeScan("SN0002.U2")
	c.sees("fail", "not the label of SN0001")
	c.check("fail")
	c.reloads(s.bench)
	c.typeScan("SN0001.U1")
	c.sees("ready", "SN0001 is closed")
	c.check("closed")

	s.printer.set(&PrinterError{Text: "is out of paper"})
	c.sees("stopped", "out of paper")
	c.check("stopped")
	c.reloads(s.bench)
	s.printer.set(nil)
	c.sees("ready", "Scan the next unit")
	c.typeScan("END")
	c.sees("end", "1 unit made")
	c.check("end")
	c.reloads(s.bench)
	for _, path := range []string{"/codes", "/numbers"} {
		c.do(chromedp.Navigate(s.url+path), chromedp.WaitReady("main"))
		c.check(strings.Trim(path, "/"))
	}
	s.wantUnits("SN0001 confirmed")
}

// awaited has an expression's promise awaited.
func awaited(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }

// TestHoldScreen shows the one screen that only make mode has.
func TestHoldScreen(t *testing.T) {
	c := openChromium(t)
	var maker *fakeMaker
	s := serve(t, 4, 1, func(b *bench, o *Options) {
		b.lot.make = true
		maker = &fakeMaker{lot: b.lot, down: serverDown()}
		o.Maker, o.Silence = maker, time.Minute
	})
	c.open(s.url)
	s.places[0].plug()
	s.waitUntil(func(v *View) bool { return v.Slots[0].State == "ready" })
	c.typeScan("SN0001")
	c.sees("hold", "Keep the unit")
	c.check("hold")
	c.reloads(s.bench)
	maker.up()
	c.sees("pass", "Stick the label on")
	c.typeScan("SN0001.U1")
	s.waitUntil(func(v *View) bool { return v.Made == 1 })
}

// TestTypedScans is what a keyboard wedge does to a browser.
func TestTypedScans(t *testing.T) {
	c := openChromium(t)
	s := serve(t, 9, 3, func(_ *bench, o *Options) { o.Silence = 2 * time.Second })
	c.open(s.url)
	for _, p := range s.places {
		p.plug()
	}
	s.waitUntil(func(v *View) bool { return v.Slots[2].State == "ready" })
	// Without Enter, by silence.
	c.do(chromedp.KeyEvent("SN0001"))
	s.waitUntil(func(v *View) bool { return v.Slots[0].State == "labelled" })
	// Tab ends a scan as well, wherever the focus is.
	c.do(chromedp.Focus("#foot a"), chromedp.KeyEvent("SN0001.U1\t"))
	s.waitUntil(func(v *View) bool { return v.Made == 1 })
	// Two at once: what two scanners type is one text, which is no unit's code.
	c.typeScan("SSNN00000023")
	c.sees("fail", "No unit of this lot has the code SSNN00000023")
	// A second tab only looks, until it takes over.
	other, stop := chromedp.NewContext(c.ctx)
	defer stop()
	second := &browser{t, other, c.axe}
	second.open(s.url)
	second.waits(`!document.getElementById("viewer").hidden`)
	second.check("second-tab")
	second.typeScan("SN0002")
	second.do(chromedp.Click("#take"))
	second.waits(`document.getElementById("viewer").hidden`)
	c.waits(`!document.getElementById("viewer").hidden`)
	s.wantUnits("SN0001 confirmed")
	second.typeScan("SN0003")
	s.waitUntil(func(v *View) bool { return v.Slots[1].Device == "SN0003" || v.Slots[0].Device == "SN0003" })
	// A browser that is sent by another site gets nothing done.
	var status string
	c.do(chromedp.Navigate("data:text/html,<title>evil</title>"), chromedp.Evaluate(fmt.Sprintf(
		`fetch(%q, {method: "POST", mode: "no-cors", body: JSON.stringify({id: "x", text: "SN0004"})}).then((r) => r.type, (e) => String(e))`, s.url+"/api/v1/scan"), &status, awaited))
	units := s.lot.states()
	if strings.Contains(units, "SN0004") {
		t.Errorf("another site's scan was taken: %s, %s", status, units)
	}
}

// TestNoInlineScript looks at what the page holds.
func TestNoInlineScript(t *testing.T) {
	s := serve(t, 1, 1, nil)
	for _, path := range []string{"/", "/screen", "/numbers", "/codes"} {
		_, body := s.do("GET", path, "")
		for _, bad := range []string{"<script>", "javascript:", " style=", " onclick="} {
			if strings.Contains(body, bad) {
				t.Errorf("%s holds %q", path, bad)
			}
		}
	}
	var state map[string]any
	_, body := s.do("GET", "/api/v1/state", "")
	if err := json.Unmarshal([]byte(body), &state); err != nil || len(state) != 8 {
		t.Errorf("%v: %s", err, body)
	}
}
