package files

import (
	"strings"
	"testing"
)

func TestLotNames(t *testing.T) {
	for manifest, want := range map[string]string{
		"/in/2026-W47.csv": "2026-W47", "Los A.xlsx": "Los-A", "Los Aä.csv": "Los-Aä", "Los Aö.csv": "Los-Aö",
		"Los Aa\u0308.csv": "Los-Aä", "Партия.csv": "Партия", "Другое.csv": "Другое", "批次 7.csv": "批次-7",
		".csv": "_", "..csv": "_.", "a/b\x00c.csv": "b-c", "-x.csv": "_-x", strings.Repeat("ж", 100) + ".csv": strings.Repeat("ж", 64),
	} {
		if got := LotName(manifest); got != want || SafeLot(got) != got {
			t.Errorf("%q names lot %q, want %q", manifest, got, want)
		}
	}
}
