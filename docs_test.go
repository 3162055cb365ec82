package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/alecthomas/kong"
)

// document is a text in Markdown.
type document struct {
	links   []string
	anchors map[string]bool // of its headings, as GitHub makes them
}

var (
	codeBlock = regexp.MustCompile("(?ms)^```.*?^```$")
	codeSpan  = regexp.MustCompile("`[^`]*`")
	heading   = regexp.MustCompile(`(?m)^#{1,6} (.+)$`)
	mdLink    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
)

func readDocument(t *testing.T, path string) document {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := codeBlock.ReplaceAllString(string(b), "")
	d := document{anchors: map[string]bool{}}
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, mdLink.ReplaceAllString(m[1], "]"))
		for n, first := 1, anchor; d.anchors[anchor]; n++ {
			anchor = fmt.Sprint(first, "-", n)
		}
		d.anchors[anchor] = true
	}
	for _, m := range mdLink.FindAllStringSubmatch(codeSpan.ReplaceAllString(text, "code"), -1) {
		d.links = append(d.links, m[1])
	}
	return d
}

// Every link of a document to a file or a heading of this repository leads somewhere.
func TestLinks(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	documents := map[string]document{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && strings.HasPrefix(d.Name(), "."), d.IsDir() && strings.Contains(path, "artifacts"):
			return filepath.SkipDir
		case filepath.Ext(path) == ".md":
			documents[path] = readDocument(t, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for path, d := range documents {
		for _, link := range d.links {
			if strings.Contains(link, ":") { // to elsewhere
				continue
			}
			checked++
			file, anchor, hasAnchor := strings.Cut(link, "#")
			target := path
			if file != "" {
				target = filepath.Join(filepath.Dir(path), filepath.FromSlash(file))
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s has a link to %s: %v", path, link, err)
			} else if hasAnchor && !documents[target].anchors[anchor] {
				t.Errorf("%s has a link to %s, but there is no such heading", path, link)
			}
		}
	}
	if len(documents) < 4 || checked < 50 {
		t.Errorf("%d links in %d documents: not all were found", checked, len(documents))
	}
}

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

// Every test that RELIABILITY.md names is there.
func TestReliabilityNames(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	text, err := os.ReadFile("RELIABILITY.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var code []byte
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		code = append(code, b...)
	}
	names := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(text), -1)
	if len(names) < 20 {
		t.Errorf("RELIABILITY.md names %d tests", len(names))
	}
	for _, m := range names {
		if !strings.Contains(string(code), "\nfunc "+m[1]+"(t *testing.T)") {
			t.Errorf("there is no test %s", m[1])
		}
	}
}

// Compose lets what stands in environment: win over env_file:, if it is empty too: a DATABASE_URL of grpcchatter.env was not heard,
// and the data went to SQLite in the volume without a word. Of files the last one wins.
func TestComposeHearsItsFile(t *testing.T) {
	server, _, _ := strings.Cut(string(readFile(t, "compose.yaml")), "\n  postgres:\n")
	ours, theirs := strings.Index(server, "- path: compose.env"), strings.Index(server, "- path: grpcchatter.env")
	if strings.Contains(server, "\n    environment:") || ours < 0 || theirs < ours {
		t.Errorf("the server does not get what grpcchatter.env says:\n%s", server)
	}
	for _, key := range []string{"DATABASE_URL=", "PGPASSWORD="} {
		if !strings.Contains(string(readFile(t, "compose.env")), "\n"+key+"${POSTGRES_PASSWORD:") {
			t.Errorf("compose.env has no %s", key)
		}
	}
}
