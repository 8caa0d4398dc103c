//go:build !linux

package cmd

func dropProgramPages() {}
