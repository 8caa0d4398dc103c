//go:build !libpcap

package capture

import (
	"context"
	"errors"
	"testing"
)

// TestWithoutLibpcap: a binary without libpcap says so, and how to get one with it.
func TestWithoutLibpcap(t *testing.T) {
	_, err := Open(context.Background(), Config{Engine: EnginePcap})
	for _, err := range []error{err, CheckEngine(EnginePcap), CheckExpression("tcp")} {
		var be *BuildError
		if !errors.As(err, &be) || be.Hint() == "" || !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%v", err)
		}
	}
	if CheckEngine("") != nil || CheckEngine(EngineRing) != nil || CheckEngine("xdp") == nil {
		t.Error("engines are told apart wrongly")
	}
}
