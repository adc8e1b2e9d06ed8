package main

import (
	"bytes"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestEveryVerbIsExplained: a short text and examples whose verbs, flags and
// arguments exist.
func TestEveryVerbIsExplained(t *testing.T) {
	for cmd := range everyVerb((&app{}).root()) {
		if cmd.Short == "" || cmd.Example == "" && !cmd.IsAdditionalHelpTopicCommand() {
			t.Errorf("%s: its help lacks a short text or examples", cmd.CommandPath())
		}
		for _, line := range exampleLines(cmd.Example) {
			args := shellWords(line)
			root := (&app{}).root()
			verb, rest, err := root.Find(args[1:])
			if err != nil || !strings.HasPrefix(line, cmd.CommandPath()) && cmd.HasParent() {
				t.Errorf("%s shows %q: %v", cmd.CommandPath(), line, err)
				continue
			}
			if err := verb.ParseFlags(rest); err != nil {
				t.Errorf("%s shows %q: %v", cmd.CommandPath(), line, err)
			} else if err := verb.ValidateArgs(verb.Flags().Args()); err != nil {
				t.Errorf("%s shows %q: %v", cmd.CommandPath(), line, err)
			}
		}
	}
}

// exampleLines returns the keymill commands of an example; lines that end in a
// backslash go on.
func exampleLines(example string) []string {
	var lines []string
	for line := range strings.Lines(strings.ReplaceAll(example, "\\\n", " ")) {
		line = regexp.MustCompile(`\s[|<>#].*|\s&$`).ReplaceAllString(strings.TrimSpace(line), "")
		if strings.HasPrefix(line, "keymill ") {
			lines = append(lines, line)
		}
	}
	return lines
}

// shellWords splits at blanks outside of single and double quotes.
func shellWords(line string) []string {
	var words []string
	line = regexp.MustCompile(`\$\([^)]*\)`).ReplaceAllString(line, "X") // what a command prints
	for _, word := range regexp.MustCompile(`'[^']*'|"[^"]*"|\S+`).FindAllString(line, -1) {
		words = append(words, strings.Trim(word, `'"`))
	}
	return words
}

// TestDidYouMean: a slip of the finger ends with code 2 and the right word.
func TestDidYouMean(t *testing.T) {
	for line, want := range map[string]string{
		"statsu":                  "did you mean status?",
		"image writ":              "did you mean write?",
		"frobnicate":              `unknown verb "frobnicate"`,
		"plan m.csv --gloden x":   "did you mean --golden?",
		"run m.csv --on-conflic=": "did you mean --on-conflict?",
	} {
		var out bytes.Buffer
		err := run(t.Context(), strings.Fields(line), stdio{in: strings.NewReader(""), out: &out, err: &out}, nil)
		if err == nil || exitCode(err) != exitUsage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v (code %d)", line, err, exitCode(err))
		}
	}
}

// TestReportsAreJSONToo: every verb has --json, save for those that only make
// something or whose output is a file of its own.
func TestReportsAreJSONToo(t *testing.T) {
	makers := []string{
		"demo", "init", "sandbox", "config schema", "man", "help", "image write", "image serve",
		"audit key", "audit proof", "audit cosign", "ledger vacuum",
		"cert crl", "order new", "label", "station", "hsm ceremony", "move-a-lot", "package", "telemetry",
	}
	for cmd := range everyVerb((&app{}).root()) {
		name := strings.TrimPrefix(cmd.CommandPath(), "keymill ")
		if cmd.HasSubCommands() && name != "config" || slices.Contains(makers, name) || strings.HasPrefix(name, "completion") {
			continue
		}
		if cmd.Flags().Lookup("json") == nil {
			t.Errorf("%s reports, but has no --json", name)
		}
	}
}

// TestHelpIsPlain: no control codes in any help.
func TestHelpIsPlain(t *testing.T) {
	for cmd := range everyVerb((&app{}).root()) {
		var out bytes.Buffer
		cmd.SetOut(&out)
		if err := cmd.Help(); err != nil || out.Len() == 0 || regexp.MustCompile(`[\x00-\x08\x0b-\x1f\x7f]`).Match(out.Bytes()) {
			t.Errorf("%s: %v, %q", cmd.CommandPath(), err, out.Bytes())
		}
	}
}

// TestManualPages: groff finds nothing to complain about.
func TestManualPages(t *testing.T) {
	needTools(t, "groff-base", "groff")
	var pages bytes.Buffer
	for cmd := range everyVerb((&app{}).root()) {
		var page bytes.Buffer
		if err := writeMan(&page, cmd); err != nil {
			t.Fatal(err)
		}
		if cmd.HasParent() && !cmd.HasAvailableSubCommands() && cmd.Name() == "run" {
			pages = page
		}
		groff := exec.CommandContext(t.Context(), "groff", "-man", "-Tascii", "-ww", "-z")
		groff.Stdin = &page
		if out, err := groff.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", cmd.CommandPath(), err, out)
		}
	}
	groff := exec.CommandContext(t.Context(), "groff", "-man", "-Tascii", "-P-c", "-P-b", "-P-u")
	groff.Stdin = &pages
	out, err := groff.Output()
	for _, want := range []string{"keymill-run - Carry a lot", "--expect int", "130  interrupted", "keymill run manifest.xlsx --lot"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("the page of run lacks %q (%v):\n%s", want, err, out)
		}
	}
}

// TestCompletion: shells are offered the ledger's lots and the words of a setting.
func TestCompletion(t *testing.T) {
	ask := func(args ...string) string {
		var out, errs bytes.Buffer
		err := run(t.Context(), append([]string{cobra.ShellCompRequestCmd}, args...), stdio{in: strings.NewReader(""), out: &out, err: &errs}, nil)
		if err != nil {
			t.Errorf("%v: %v", args, err)
		}
		return out.String()
	}
	if got := ask("run", "--format", "q"); !strings.Contains(got, "qcow2\n") {
		t.Errorf("formats: %s", got)
	}
	if got := ask("status", "--ledger", t.TempDir()+"/none.db", ""); strings.TrimSpace(got) != ":4" {
		t.Errorf("without a ledger: %q", got)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var out bytes.Buffer
		if err := run(t.Context(), []string{"completion", shell}, stdio{out: &out, err: &out}, nil); err != nil || !strings.Contains(out.String(), "__complete") {
			t.Errorf("%s: %v", shell, err)
		}
	}
}
