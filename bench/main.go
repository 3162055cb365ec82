// Command bench measures GRPCChatter against its peers: a bare grpc-go broadcast that stores nothing, NATS core,
// and NATS JetStream on file. Every server is a process of its own, whose processor time and memory are read
// from the operating system. README.md tells how to read the table.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == "peer" {
		runPeer(os.Args[2], os.Args[3])
		return
	}
	if len(os.Args) == 5 && os.Args[1] == "receive" {
		n, err := strconv.Atoi(os.Args[4])
		if err == nil {
			err = receive(os.Args[2], os.Args[3], n)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	runs     int
	messages int
	stored   int
	idle     int
	crowd    int
	dir      string
	binary   string
	servers  []string // empty: all
}

func run(ctx context.Context) error {
	var o options
	only := flag.String("only", "", "workloads to run, by comma (default: all)")
	list := flag.Bool("list", false, "list the workloads")
	flag.IntVar(&o.runs, "runs", 5, "alternating runs of each server; the table has their medians")
	flag.IntVar(&o.messages, "messages", 60_000, "messages of a fan-out run")
	flag.IntVar(&o.stored, "stored", 10_000_000, "messages in the database of the workload stored")
	flag.IntVar(&o.idle, "idle", 5_000, "connections of the workload idle")
	flag.IntVar(&o.crowd, "crowd", 5_000, "members of the workload crowd")
	flag.StringVar(&o.binary, "binary", "", "grpcchatter to measure (default: built from ..)")
	servers := flag.String("servers", "", "servers to run, by comma: grpcchatter, bare, nats, jetstream (default: all that a workload has)")
	flag.Parse()

	if *list {
		for _, w := range workloads {
			fmt.Printf("%-12s %s\n", w.name, w.what)
		}
		return nil
	}
	byComma := func(r rune) bool { return r == ',' }
	o.servers = strings.FieldsFunc(*servers, byComma)
	names := strings.FieldsFunc(*only, byComma)
	for _, n := range names {
		if !slices.ContainsFunc(workloads, func(w workload) bool { return w.name == n }) {
			return fmt.Errorf("-only: there is no workload %q; -list lists them", n)
		}
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	o.dir = dir
	if o.binary == "" {
		if o.binary, err = build(ctx, dir); err != nil {
			return err
		}
	}

	fmt.Printf("%s, %d cores, %s, medians of %d runs, load on the same machine\n\n", cpuModel(), runtime.NumCPU(), runtime.Version(), o.runs)
	var rows []row
	for _, w := range workloads {
		if len(names) > 0 && !slices.Contains(names, w.name) {
			continue
		}
		r, err := w.run(ctx, &bencher{options: o, workload: w.name})
		rows = append(rows, r...)
		if err != nil {
			printTable(rows)
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	printTable(rows)
	return nil
}

// workload is one row of work, or a few.
type workload struct {
	name string
	what string
	run  func(context.Context, *bencher) ([]row, error)
}

// row is a line of the table.
type row struct {
	work, figure string
	ours         string
	peer         string // with its figure
	ratio        string
	target       string
	met          bool
}

func printTable(rows []row) {
	fmt.Println()
	fmt.Println("| work | figure | grpcchatter | peer | ratio | target | |")
	fmt.Println("|---|---|---|---|---|---|---|")
	for _, r := range rows {
		verdict := "met"
		if !r.met {
			verdict = "**missed**"
		}
		if r.target == "" {
			verdict = ""
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %s | %s |\n", r.work, r.figure, r.ours, r.peer, r.ratio, r.target, verdict)
	}
}

// bencher runs one workload.
type bencher struct {
	options
	workload string
}

// progress tells what is going on, on stderr.
func (b *bencher) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %-10s %s\n", time.Now().Format(time.TimeOnly), b.workload, fmt.Sprintf(format, args...))
}

// alternate calls fn for each of kinds, in turn, as often as runs says, and returns the figures by kind.
func (b *bencher) alternate(ctx context.Context, kinds []string, fn func(kind string) (figures, error)) (map[string]samples, error) {
	all := map[string]samples{}
	for i := range b.runs {
		for _, kind := range kinds {
			if err := ctx.Err(); err != nil {
				return nil, errors.New("interrupted")
			}
			server, _, _ := strings.Cut(kind, " ")
			if len(b.servers) > 0 && !slices.Contains(b.servers, server) {
				continue
			}
			f, err := fn(kind)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind, err)
			}
			b.progress("run %d of %d  %-22s %s", i+1, b.runs, kind, f)
			all[kind] = append(all[kind], f)
		}
	}
	return all, nil
}

// figures are what one run measured, by name.
type figures map[string]float64

func (f figures) String() string {
	names := make([]string, 0, len(f))
	for n := range f {
		names = append(names, n)
	}
	slices.Sort(names)
	var s strings.Builder
	for _, n := range names {
		fmt.Fprintf(&s, "%s=%.4g ", n, f[n])
	}
	return s.String()
}

// samples are the figures of all runs of one kind.
type samples []figures

func (s samples) median(name string) float64 {
	v := make([]float64, len(s))
	for i, f := range s {
		v[i] = f[name]
	}
	return median(v)
}

func median(v []float64) float64 { return quantile(v, 0.5) }

// quantile returns a quantile of v, which it sorts.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[min(int(q*float64(len(v))), len(v)-1)]
}
