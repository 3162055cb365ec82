package main

import (
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/grpcchatter/grpcchatter/pb"
)

// originalSecret is the SECRET in the original's configuration file, which everybody can read.
const originalSecret = "12345678901234567890123456789012"

// originalService is the name of the service in the original project, whose clients go on working.
const originalService = "proto.GRPCChatter"

// originalDesc is the service under that name: the same messages and methods, but another Chat.
func originalDesc() *grpc.ServiceDesc {
	desc := pb.GRPCChatter_ServiceDesc
	desc.ServiceName = originalService
	desc.Streams = []grpc.StreamDesc{{
		StreamName:    "Chat",
		Handler:       func(srv any, ss grpc.ServerStream) error { return srv.(*chatServer).chat(ss, true) },
		ServerStreams: true,
		ClientStreams: true,
	}}
	return &desc
}

// originalRPC carries a stream of the original's protocol: each message is a frame.
type originalRPC struct{ rpc }

// opened sends nothing more than the header: each response is a message.
func (t originalRPC) opened() error { return t.SendHeader(nil) }

func (t originalRPC) name() string { return transportOriginal }

func (t originalRPC) send(s *session, spans []span) error {
	for _, sp := range spans {
		if sp.block.first == 0 {
			continue
		}
		for i := sp.from; i < sp.to; i++ {
			if s.sentIt(sp.block.first + uint64(i)) {
				continue // not to the stream that it came from
			}
			m := sp.block.marks[i]
			if err := t.sendFrame(s, &frame{mem.BufferSlice{mem.SliceBuffer(sp.block.data[m.content:m.text])}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// originalFile describes it for reflection: chat.proto with the original's package and stream of single
// events. It stands in no registry, so that a program may use the original's own generated code beside ours.
func originalFile() (protoreflect.FileDescriptor, error) {
	file := protodesc.ToFileDescriptorProto(pb.File_chat_proto)
	file.Name, file.Package, file.Options = proto.String("proto/grpcchatter.proto"), proto.String("proto"), nil
	rename := func(name *string) *string {
		if name == nil {
			return nil
		}
		return proto.String(strings.Replace(*name, "."+string(pb.File_chat_proto.Package())+".", ".proto.", 1))
	}
	for _, m := range file.MessageType {
		for _, f := range m.Field {
			f.TypeName = rename(f.TypeName)
		}
	}
	for _, m := range file.Service[0].Method {
		m.InputType, m.OutputType = rename(m.InputType), rename(m.OutputType)
		if m.GetName() == "Chat" {
			m.OutputType = proto.String(".proto.ChatEvent")
		}
	}
	return protodesc.NewFile(file, protoregistry.GlobalFiles)
}

// descriptors finds what reflection is asked for: in the registry, or in the original's file.
type descriptors struct {
	original protoreflect.FileDescriptor
}

func (d descriptors) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if path == d.original.Path() {
		return d.original, nil
	}
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

func (d descriptors) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if rest, ok := strings.CutPrefix(string(name), "proto."); ok {
		first, method, _ := strings.Cut(rest, ".")
		if s := d.original.Services().ByName(protoreflect.Name(first)); s != nil {
			if m := s.Methods().ByName(protoreflect.Name(method)); m != nil {
				return m, nil
			}
			return s, nil
		}
		if m := d.original.Messages().ByName(protoreflect.Name(rest)); m != nil {
			return m, nil
		}
	}
	if e := d.original.Enums().ByName(name.Name()); e != nil && e.FullName() == name {
		return e, nil
	}
	return protoregistry.GlobalFiles.FindDescriptorByName(name)
}

func registerReflection(s *grpc.Server) error {
	original, err := originalFile()
	if err != nil {
		return err
	}
	options := reflection.ServerOptions{Services: s, DescriptorResolver: descriptors{original}}
	reflectionv1.RegisterServerReflectionServer(s, reflection.NewServerV1(options))
	reflectionv1alpha.RegisterServerReflectionServer(s, reflection.NewServer(options))
	return nil
}
