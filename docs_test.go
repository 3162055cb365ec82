package main

import (
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// The README has a line for each key of the configuration, with its default.
func TestConfigInReadme(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	parser, err := kong.New(&commands{}, kong.Writers(io.Discard, io.Discard))
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, node := range parser.Model.Leaves(false) {
		for _, flag := range node.Flags {
			if node.Name != "serve" || len(flag.Envs) == 0 {
				continue
			}
			checked++
			key := flag.Envs[0]
			row := regexp.MustCompile("(?m)^\\|[^|\n]*`" + key + "`[^|\n]*\\|([^|\n]*)\\|").FindSubmatch(readme)
			switch {
			case row == nil:
				t.Errorf("the README has no line for %s", key)
			case flag.Default != "" && strings.TrimSpace(string(row[1])) != "`"+flag.Default+"`":
				t.Errorf("the README says of %s: %s; its default is %s", key, row[1], flag.Default)
			}
		}
	}
	if checked != len(configKeys) {
		t.Errorf("%d keys, want %d", checked, len(configKeys))
	}
}
