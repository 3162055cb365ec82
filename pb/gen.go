// Package pb holds the messages and the service of the wire contract, generated from chat.proto.
package pb

//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate
