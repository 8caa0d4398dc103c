// Package cmd is the command line of podtrace: flags, streams and exit statuses around the
// stages. Each command is a file with an options struct, a newXCmd that only parses and checks
// flags, and a runX that does the work; passing another function for runX tests the parsing
// alone.
//
// Standard output carries the product (a report, a table, an inventory) and nothing else;
// progress, errors and hints go to standard error. Exit statuses: 0 healthy, 1 a fault was
// found, 2 usage or a tool error, 3 inconclusive.
package cmd
