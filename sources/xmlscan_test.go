package sources

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// tags lists a document's tags as the scan sees them.
func tags(r io.Reader, buffer int) ([]string, error) {
	x := newXMLScanSize(r, buffer)
	var list []string
	for {
		err := x.next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		if x.start {
			r, err := x.attr("r")
			if err != nil {
				return list, err
			}
			list = append(list, fmt.Sprintf("<%s r=%s>%s", x.name, r, strings.TrimSpace(string(x.text))))
		}
		if x.end {
			text := ""
			if !x.start {
				text = strings.TrimSpace(string(x.text))
			}
			list = append(list, fmt.Sprintf("</%s>%s", x.name, text))
		}
	}
}

// tagsByStd lists the same by encoding/xml.
func tagsByStd(text string) []string {
	d := xml.NewDecoder(strings.NewReader(text))
	var list []string
	chars := ""
	for {
		tok, err := d.Token()
		if err != nil {
			return list
		}
		switch tok := tok.(type) {
		case xml.CharData:
			chars += string(tok)
		case xml.StartElement:
			r := ""
			for _, a := range tok.Attr {
				if a.Name.Local == "r" && a.Name.Space == "" {
					r = a.Value
				}
			}
			list = append(list, fmt.Sprintf("<%s r=%s>%s", tok.Name.Local, r, strings.TrimSpace(chars)))
			chars = ""
		case xml.EndElement:
			list = append(list, fmt.Sprintf("</%s>%s", tok.Name.Local, strings.TrimSpace(chars)))
			chars = ""
		}
	}
}

// element draws an XML element with children.
func element(t *rapid.T, depth int) string {
	name := rapid.SampledFrom([]string{"c", "row", "x:v", "is"}).Draw(t, "name")
	attrs := rapid.SampledFrom([]string{"", ` r="B7"`, ` t='s' r = 'a>b'`, ` q="it's" r="1"`, ` x:r="no"`, "\n r=\"2\" "}).Draw(t, "attrs")
	if rapid.Bool().Draw(t, "empty") {
		return "<" + name + attrs + "/>"
	}
	var b strings.Builder
	b.WriteString("<" + name + attrs + ">")
	for range rapid.IntRange(0, 3).Draw(t, "children") {
		b.WriteString(rapid.SampledFrom([]string{"", " ", "12345", "<!-- <c> -- -->", "<?pi <x> ?>"}).Draw(t, "text"))
		if depth > 0 {
			b.WriteString(element(t, depth-1))
		}
	}
	b.WriteString(rapid.StringMatching(`[a-z0-9 ]{0,12}`).Draw(t, "tail") + "</" + name + ">")
	return b.String()
}

func TestScanAgreesWithEncodingXML(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := `<?xml version="1.0"?><w xmlns:x="u">` + element(t, 3) + "</w>\n"
		text = strings.ReplaceAll(text, "-- -->", "- -->") // encoding/xml allows no -- in comments
		want := tagsByStd(text)
		// Small buffers, so that everything happens at their ends too.
		got, err := tags(iotest.OneByteReader(strings.NewReader(text)), rapid.IntRange(48, 80).Draw(t, "buffer"))
		if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s\n%s", text, diff)
		}
	})
}

func TestScanRefusesEveryCut(t *testing.T) {
	const text = `<?xml version="1.0"?><w><row r="1"><c t="s"><v>12</v></c><!-- x --></row></w>`
	if _, err := tags(strings.NewReader(text), 64); err != nil {
		t.Fatal(err)
	}
	for i := range len(text) {
		if list, err := tags(strings.NewReader(text[:i]), 64); err == nil {
			t.Errorf("cut at %d is read as %v", i, list)
		}
	}
}

func TestScanRefuses(t *testing.T) {
	for text, what := range map[string]string{
		"<a><b></a></b>":                       "closed as",
		"<a></a></a>":                          "not open",
		"<a></a>text":                          "outside",
		"<a>< /a>":                             "usable name",
		"<!DOCTYPE a><a/>":                     "document type",
		"<![CDATA[x]]><a/>":                    "document type",
		"<a>&nbsp;</a>":                        "unknown reference",
		"<a>&#0;</a>":                          "unknown reference",
		"<a>&#xd800;</a>":                      "unknown reference",
		"<a>a & b</a>":                         "begins no reference",
		"<a r=1/>":                             "well-formed",
		"<a r='1' r='2'/>":                     "well-formed",
		"<a r/>":                               "well-formed",
		strings.Repeat("<a>", 300):             "too deeply",
		"<a>" + strings.Repeat("x", 99):        "longer than a cell",
		"<a b=\"" + strings.Repeat("x", 99):    "longer than a cell",
		"<a b=\"" + strings.Repeat(">", 2<<20): "longer than a cell",
	} {
		if _, err := tags(strings.NewReader(text), 64); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%.20s: %v", text, err)
		}
	}
}
