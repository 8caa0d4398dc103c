// Package netns opens network namespaces and runs functions inside them. It is the one package of
// podtrace that calls setns(2): everything else asks it for a socket that was opened inside.
package netns
