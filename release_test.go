package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// A release is the same, byte by byte, wherever it is built, and its archives have what a user needs.
func TestRelease(t *testing.T) {
	onlySQLite(t)
	if !*slow {
		t.Skip("SKIPPED: it takes half a minute; -slow runs it")
	}
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: a release is built on Linux")
	}
	for _, tool := range []string{"git", "tar", "gzip", "zip"} {
		if _, err := exec.LookPath(tool); err != nil && os.Getenv("CI") == "" {
			t.Skip("SKIPPED: a release cannot be built here:", err)
		} // in CI the build below fails
	}
	build := func(env ...string) (dir string) {
		dir = filepath.Join(t.TempDir(), "dist")
		cmd := exec.Command(".ci/release", dir, "linux/"+runtime.GOARCH, "windows/amd64")
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
		return dir
	}
	first := build("TZ=Pacific/Auckland", "TMPDIR="+t.TempDir())
	second := build("LC_ALL=C.UTF-8", "GOFLAGS=-tags=other", "TMPDIR="+t.TempDir())
	archives := files(t, first)
	if len(archives) != 3 {
		t.Errorf("the folder has %d files, want two archives and SHA256SUMS", len(archives))
	}
	var sums []string
	for path, content := range archives {
		name := filepath.Base(path)
		if again, err := os.ReadFile(filepath.Join(second, name)); err != nil || string(again) != content {
			t.Errorf("%s differs from one build to the next (%v)", name, err)
		}
		if name != "SHA256SUMS" {
			sums = append(sums, fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(content)), name))
		}
	}
	slices.SortFunc(sums, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	if got := archives[filepath.Join(first, "SHA256SUMS")]; got != strings.Join(sums, "") {
		t.Errorf("SHA256SUMS: %q, want %q", got, sums)
	}

	commit, err := exec.Command("git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range archives {
		name, isTar := strings.CutSuffix(filepath.Base(path), ".tar.gz")
		name, isZip := strings.CutSuffix(name, ".zip")
		var got map[string][]byte
		var want []string
		switch {
		case isTar:
			got, want = unpackTar(t, content), []string{"LICENSE", "LICENSES-OF-OTHERS", "OPERATING.md", "README.md", "RELIABILITY.md", "SECURITY.md", "grpcchatter", "grpcchatter.service"}
			exe := filepath.Join(t.TempDir(), "grpcchatter")
			if err := os.WriteFile(exe, got[name+"/grpcchatter"], 0o755); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(exe, "version").Output()
			version := strings.TrimSuffix(strings.TrimPrefix(name, "grpcchatter-"), "-linux-"+runtime.GOARCH)
			if says := fmt.Sprintf("grpcchatter %s, commit %s, %s, linux/%s\n", version, bytes.TrimSpace(commit), runtime.Version(), runtime.GOARCH); err != nil || string(out) != says {
				t.Errorf("version: %q, %v; want %q", out, err, says)
			}
		case isZip:
			got, want = unpackZip(t, content), []string{"LICENSE", "LICENSES-OF-OTHERS", "OPERATING.md", "README.md", "RELIABILITY.md", "SECURITY.md", "grpcchatter.exe"}
		default:
			continue
		}
		var has []string
		for file := range got {
			has = append(has, strings.TrimPrefix(file, name+"/"))
		}
		if slices.Sort(has); !slices.Equal(has, want) {
			t.Errorf("%s has %v, want %v", name, has, want)
		}
		if !bytes.Contains(got[name+"/LICENSES-OF-OTHERS"], []byte("modernc.org/sqlite")) {
			t.Errorf("%s does not have the license of SQLite's driver", name)
		}
	}
}

// unpackTar returns the files of a .tar.gz, which must not tell who has built it.
func unpackTar(t *testing.T, archive string) map[string][]byte {
	t.Helper()
	unzipped, err := gzip.NewReader(strings.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for r := tar.NewReader(unzipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		mode := int64(0o644)
		if h.Typeflag == tar.TypeDir || strings.HasSuffix(h.Name, "/grpcchatter") {
			mode = 0o755
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.Mode != mode {
			t.Errorf("%s: %+v", h.Name, h)
		}
		if h.Typeflag != tar.TypeDir {
			if all[h.Name], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func unpackZip(t *testing.T, archive string) map[string][]byte {
	t.Helper()
	r, err := zip.NewReader(strings.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, f := range r.File {
		content, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if all[f.Name], err = io.ReadAll(content); err != nil {
			t.Fatal(err)
		}
		content.Close()
	}
	return all
}
