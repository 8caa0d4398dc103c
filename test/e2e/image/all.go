package image

import "path/filepath"

// References of the images that the tests use.
const (
	Pause    = "podtrace.dev/e2e/pause:1"
	TestPod  = "podtrace.dev/e2e/testpod:1"
	Podtrace = "podtrace.dev/e2e/podtrace:1"
	Old      = "podtrace.dev/e2e/podtrace:old" // of another version
)

// Archives are the names of the files that All makes.
var Archives = []string{"pause.tar", "testpod.tar", "podtrace.tar", "podtrace-old.tar"}

// All makes the archives of the programs in a folder, and leaves them there.
func All(bin string) error {
	for i, im := range []struct {
		reference, program, as string
		args                   []string
	}{
		{Pause, "testpod", "testpod", []string{"pause"}},
		{TestPod, "testpod", "testpod", nil},
		{Podtrace, "podtrace", "podtrace", nil},
		{Old, "podtrace-old", "podtrace", nil},
	} {
		if err := Write(filepath.Join(bin, Archives[i]), im.reference, filepath.Join(bin, im.program), im.as, im.args...); err != nil {
			return err
		}
	}
	return nil
}
