package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/grpcchatter/grpcchatter/pb"
)

// The rules of the arguments, beside those in config.
const (
	maxRoomName        = 64  // characters
	maxRoomPassword    = 256 // bytes
	maxClientMessageID = 128 // bytes
	defaultPage        = 50  // messages
	maxListed          = 200 // messages
	// listedBytes is about how much one answer of ListMessages holds: below the 4 MiB that a gRPC client takes.
	listedBytes = 2 << 20
	maxSeq      = 1<<63 - 1 // above every seq: the databases' integers are signed
)

// codeAlphabet has no characters that look alike: no 0 and O, 1 and I and L, 2 and Z, 5 and S,
// 8 and B; of U and V only U.
const codeAlphabet = "34679ACDEFGHJKMNPQRTUWXY"

// chatServer is rooms and messages: the gRPC service under both of its names, what REST calls of it, and the WebSocket.
type chatServer struct {
	pb.UnimplementedGRPCChatterServer
	store      *store
	auth       *auth
	passwords  *passwords
	limits     limits
	hub        *hub
	committer  *committer
	log        *slog.Logger
	metrics    *metrics // nil: none
	codeLength int
	maxMessage int // bytes
	retention  retention
	byProxy    *concurrent // streams that proxies pass on, by address; nil: any number

	// The goroutines of all sessions. Those that read submit; those that write end when the committer has.
	readers, writers sync.WaitGroup
	sockets          sync.WaitGroup // their handlers, which http.Server does not wait for

	deleted chan struct{} // holds a token when a room was deleted
}

func (s *chatServer) CreateChatRoom(ctx context.Context, req *pb.CreateChatRoomRequest) (*pb.CreateChatRoomResponse, error) {
	name, password := req.GetRoomName(), req.GetRoomPassword()
	if err := checkRoomName(name); err != nil {
		return nil, err
	}
	if err := checkRoomPassword(password); err != nil {
		return nil, err
	}
	if err := take(try{s.limits.roomsPerUser, userKey(callerOf(ctx).user.ID)}); err != nil {
		return nil, err
	}
	hash, err := s.passwords.hash(ctx, hashingOf(ctx), password)
	if err != nil {
		return nil, err
	}
	for {
		code := newCode(s.codeLength)
		err := s.store.addRoom(ctx, code, name, hash, callerOf(ctx).user.ID)
		switch {
		case errors.Is(err, errConflict):
			continue // taken
		case errors.Is(err, errNotFound):
			return nil, errTokenInvalid // the account was deleted a moment ago
		case err != nil:
			return nil, err
		}
		return &pb.CreateChatRoomResponse{ShortCode: code}, nil
	}
}

func checkRoomName(name string) error {
	if n := utf8.RuneCountInString(name); n < 1 || n > maxRoomName || !readable(name) {
		return invalid("room_name", fmt.Sprintf("A room name has 1 to %d characters: not only invisible ones, no control characters, and none that turn the direction of text.", maxRoomName))
	}
	return nil
}

// readable tells whether a name shows something, in the order in which it is written.
func readable(name string) bool {
	visible := func(c rune) bool { return !unicode.IsSpace(c) && !unicode.Is(unicode.Cf, c) }
	return strings.ContainsFunc(name, visible) && !strings.ContainsFunc(name, func(c rune) bool {
		return unicode.IsControl(c) || c >= 0x202A && c <= 0x202E || c >= 0x2066 && c <= 0x2069 // what turns the direction
	})
}

func checkRoomPassword(password string) error {
	if len(password) > maxRoomPassword {
		return invalid("room_password", fmt.Sprintf("A room password has at most %d bytes.", maxRoomPassword))
	}
	return nil
}

func newCode(length int) string {
	code := make([]byte, 0, length)
	var b [64]byte
	for len(code) < length {
		rand.Read(b[:]) // never fails
		for _, c := range b {
			// 240 = 10 × 24: each character is as likely as any other.
			if c < 240 && len(code) < length {
				code = append(code, codeAlphabet[c%24])
			}
		}
	}
	return string(code)
}

// readCode makes a short code that a person typed the one that is stored.
func readCode(code string) (string, error) {
	code = strings.ToUpper(strings.TrimSpace(code))
	if code == "" || len(code) > 64 {
		return "", invalid("short_code", "This is no short code: it has letters and digits, as the room's owner got it.")
	}
	return code, nil
}

func (s *chatServer) DeleteChatRoom(ctx context.Context, req *pb.DeleteChatRoomRequest) (*emptypb.Empty, error) {
	u := callerOf(ctx).user
	room, err := s.room(ctx, u, req.GetShortCode(), u.mayChange)
	if err != nil {
		return nil, err
	}
	if err := s.store.deleteRoom(ctx, u, room.ID, u.mayChange); err != nil {
		return nil, roomError(err)
	}
	s.roomDeleted(room.ID)
	return &emptypb.Empty{}, nil
}

// roomDeleted ends what is live of a room that was deleted, and has the rest cleared.
func (s *chatServer) roomDeleted(id int64) {
	s.hub.remove(id, errRoomDeleted)
	select {
	case s.deleted <- struct{}{}:
	default:
	}
}

func (s *chatServer) JoinChatRoom(ctx context.Context, req *pb.JoinChatRoomRequest) (*pb.JoinChatRoomResponse, error) {
	u := callerOf(ctx).user
	room, err := s.join(ctx, u, req.GetShortCode(), req.GetRoomPassword())
	if err != nil {
		return nil, err
	}
	token, err := s.auth.roomToken(u, roomClaims{RoomID: room.ID, Code: room.Code, Seq: room.LastSeq})
	if err != nil {
		return nil, err
	}
	if method, _ := grpc.Method(ctx); strings.HasPrefix(method, "/"+originalService+"/") {
		if err := s.hub.expect(ctx, room.ID, u.ID, u.Name); err != nil {
			return nil, err
		}
	}
	return &pb.JoinChatRoomResponse{Token: token}, nil
}

// join makes u a member of a room. Who is one already needs no password.
func (s *chatServer) join(ctx context.Context, u user, shortCode, password string) (roomRow, error) {
	code, err := readCode(shortCode)
	if err != nil {
		return roomRow{}, err
	}
	if err := checkRoomPassword(password); err != nil {
		return roomRow{}, err
	}
	room, err := s.store.roomByCode(ctx, code, u.ID)
	if err != nil && !errors.Is(err, errNotFound) {
		return roomRow{}, err
	}
	if room.IsMember {
		return room, nil
	}
	key := userKey(u.ID)
	tries := []try{
		{s.limits.roomPasswordsPerUserAndRoom, key + " " + code},
		{s.limits.roomPasswordsPerUser, key},
		{s.limits.roomPasswordsPerAddress, subscriber(clientAddr(ctx)).String()}, // of any number of accounts
	}
	// Counted before it is looked at: else many at once would all be.
	if err := take(tries...); err != nil {
		return roomRow{}, err
	}
	// Where there is no room, the hash is empty: one answer, in the same time. Who is banned gets it too.
	ok, err := s.passwords.check(ctx, hashingOf(ctx), room.Hash, password)
	ok = ok && !room.IsBanned
	if ok || err != nil {
		giveBack(tries...)
	}
	switch {
	case err != nil:
		return roomRow{}, err
	case !ok:
		return roomRow{}, errRoomAccessDenied
	}
	err = s.store.addMember(ctx, room.ID, u.ID)
	if err == nil {
		room, err = s.store.roomByID(ctx, room.ID, u.ID)
	}
	if errors.Is(err, errNotFound) || err == nil && !room.IsMember {
		return roomRow{}, errRoomAccessDenied // deleted, banned or removed a moment ago
	}
	return room, err
}

func (s *chatServer) ListChatRooms(ctx context.Context, _ *emptypb.Empty) (*pb.ListChatRoomsResponse, error) {
	rooms, err := s.store.roomsOf(ctx, callerOf(ctx).user.ID)
	if err != nil {
		return nil, err
	}
	resp := &pb.ListChatRoomsResponse{}
	for _, r := range rooms {
		resp.Rooms = append(resp.Rooms, &pb.ChatRoom{ShortCode: r.Code, RoomName: r.Name, Owner: r.Owner, LastSeq: r.LastSeq})
	}
	return resp, nil
}

func (s *chatServer) ListChatRoomUsers(ctx context.Context, _ *emptypb.Empty) (*pb.ListChatRoomUsersResponse, error) {
	resp := &pb.ListChatRoomUsersResponse{}
	for _, name := range s.hub.users(callerOf(ctx).room.RoomID) {
		resp.Users = append(resp.Users, &pb.ChatRoomUser{UserName: name})
	}
	return resp, nil
}

func (s *chatServer) ListMessages(ctx context.Context, req *pb.ListMessagesRequest) (*pb.ListMessagesResponse, error) {
	limit := int(req.GetLimit())
	switch {
	case limit == 0:
		limit = defaultPage
	case limit > maxListed:
		return nil, invalid("limit", fmt.Sprintf("The limit is at most %d.", maxListed))
	}
	before := req.GetBeforeSeq()
	room := callerOf(ctx).room.RoomID
	if before == 0 || before > maxSeq {
		before = maxSeq
	}
	// Not what is committed but not published yet: who resumes behind it would get it again.
	if last, live := s.hub.newest(room); live {
		before = min(before, last+1)
	}
	page, err := s.store.messagesBefore(ctx, room, before, limit, listedBytes)
	if err != nil {
		return nil, err
	}
	resp := &pb.ListMessagesResponse{}
	for _, m := range slices.Backward(page) {
		resp.Messages = append(resp.Messages, &pb.ChatEvent{
			UserName: m.UserName, Body: m.Body, Seq: m.Seq, SentAt: timestamppb.New(time.UnixMicro(m.SentAt)),
			ClientMessageId: m.ClientMessageID, Kind: pb.ChatEventKind_MESSAGE,
		})
	}
	return resp, nil
}

// Chat is the stream of a session.
func (s *chatServer) Chat(ss pb.GRPCChatter_ChatServer) error { return s.chat(ss, false) }

// chat serves a gRPC stream, of the original's protocol or of ours.
func (s *chatServer) chat(ss grpc.ServerStream, original bool) error {
	ctx := ss.Context()
	leave, proxied, err := s.enterByProxy(ctx, peerOfCall(ctx))
	if err != nil {
		return err
	}
	defer leave()
	var t transport = rpc{ss, proxied}
	if original {
		t = originalRPC{rpc{ss, proxied}}
	}
	return s.serve(ctx, t, original)
}

// enterByProxy counts a stream that a trusted proxy passes on, until leave: the limit of connections by address does not see
// whose it is.
func (s *chatServer) enterByProxy(ctx context.Context, peer netip.Addr) (leave func(), proxied bool, err error) {
	if !s.auth.trusted.trusts(peer) {
		return func() {}, false, nil
	}
	key := subscriber(clientAddr(ctx)).String()
	if !s.byProxy.enter(key) {
		return nil, true, errTooManyStreams
	}
	return func() { s.byProxy.leave(key) }, true, nil
}

// rpc carries a stream by gRPC: all events that are to be sent are one frame.
type rpc struct {
	grpc.ServerStream
	proxied bool // by one of TRUSTED_PROXIES
}

func (t rpc) receive(req *chatRequest) error {
	if err := t.RecvMsg(req); err != nil {
		return err
	}
	if req.err != nil {
		return invalid("request", "This is no ChatRequest.")
	}
	return nil
}

func (t rpc) name() string { return transportGRPC }

// opened sends a response without events too if a proxy passes it on: nginx keeps a header alone until something follows it.
func (t rpc) opened() error {
	err := t.SendHeader(nil)
	if err == nil && t.proxied {
		err = t.SendMsg(&frame{})
	}
	return err
}

func (t rpc) send(s *session, spans []span) error {
	f := &frame{make(mem.BufferSlice, 0, len(spans))}
	for _, sp := range spans {
		f.BufferSlice = append(f.BufferSlice, mem.SliceBuffer(sp.data))
	}
	return t.sendFrame(s, f)
}

func (t rpc) sendFrame(s *session, f *frame) error {
	return s.sending(func() error { return t.SendMsg(f) })
}

// post stores a message of the caller in the room of its token, and returns its seq once it is stored for good: as a
// stream would, but of a member that is not present.
func (s *chatServer) post(ctx context.Context, body, clientMessageID string) (uint64, error) {
	c := callerOf(ctx)
	if field, rule := s.broken(&chatRequest{body: body, clientMessageID: clientMessageID}, false); rule != "" {
		return 0, invalid(field, rule)
	}
	if err := take(try{s.limits.messagesPerUser, userKey(c.user.ID)}); err != nil {
		return 0, err
	}
	p, err := s.hub.poster(ctx, c.room.RoomID, c.user)
	if err != nil {
		return 0, err
	}
	defer p.drop()
	if err := s.auth.stillValid(ctx, c); err != nil { // as for a stream
		return 0, err
	}
	defer context.AfterFunc(ctx, func() { p.end(errDatabaseUnavailable) })() // the message may still be stored
	if s.committer.submit(submission{s: p, body: body, clientMessageID: clientMessageID}) {
		select {
		case seq := <-p.posted:
			return seq, nil
		case <-p.done:
		}
	}
	<-p.done
	return 0, p.err
}
