package main

import (
	"context"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/grpcchatter/grpcchatter/pb"
)

// The routes of rooms call the gRPC service's methods: the same rules, limits and errors.

// as makes a route that asks for a token of the kind that audience names, and has its caller in the request's context.
func (s *restServer) as(audience string, limit int64, fn func(*http.Request) (any, error)) http.HandlerFunc {
	return s.handle(limit, func(r *http.Request) (any, error) {
		token, err := bearerToken(r.Header.Values("Authorization"))
		if err != nil {
			return nil, err
		}
		c, err := s.auth.authenticate(r.Context(), audience, token)
		if err != nil {
			return nil, err
		}
		if code, err := readCode(r.PathValue("short_code")); audience == audienceRoom && (err != nil || code != c.room.Code) {
			return nil, errTokenInvalid // of another room
		}
		return fn(r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// asUser and asRoom make routes that ask for a user's token, or for that of the room in the path.
func (s *restServer) asUser(fn func(*http.Request) (any, error)) http.HandlerFunc {
	return s.as(audienceUser, maxBody, fn)
}

func (s *restServer) asRoom(fn func(*http.Request) (any, error)) http.HandlerFunc {
	return s.as(audienceRoom, maxBody+escapedSize*int64(s.chat.maxMessage), fn)
}

type restRoom struct {
	ShortCode string `json:"short_code"`
	RoomName  string `json:"room_name"`
	Owner     string `json:"owner"`
	LastSeq   uint64 `json:"last_seq"`
}

func toRoom(r roomRow) restRoom { return restRoom{r.Code, r.Name, r.Owner, r.LastSeq} }

func (s *restServer) listRooms(r *http.Request) (any, error) {
	resp, err := s.chat.ListChatRooms(r.Context(), &emptypb.Empty{})
	if err != nil {
		return nil, err
	}
	return struct {
		Rooms []restRoom `json:"rooms"`
	}{listed(resp.GetRooms(), func(room *pb.ChatRoom) restRoom {
		return restRoom{room.GetShortCode(), room.GetRoomName(), room.GetOwner(), room.GetLastSeq()}
	})}, nil
}

func (s *restServer) createRoom(r *http.Request) (any, error) {
	body, err := readBody[struct {
		RoomName     string `json:"room_name"`
		RoomPassword string `json:"room_password"`
	}](r)
	if err != nil {
		return nil, err
	}
	resp, err := s.chat.CreateChatRoom(r.Context(), &pb.CreateChatRoomRequest{RoomName: body.RoomName, RoomPassword: body.RoomPassword})
	return struct {
		ShortCode string `json:"short_code"`
	}{resp.GetShortCode()}, err
}

func (s *restServer) changeRoom(r *http.Request) (any, error) {
	body, err := readBody[newRoom](r)
	if err != nil {
		return nil, err
	}
	room, err := s.chat.changeRoom(r.Context(), r.PathValue("short_code"), body)
	return toRoom(room), err
}

func (s *restServer) deleteRoom(r *http.Request) (any, error) {
	_, err := s.chat.DeleteChatRoom(r.Context(), &pb.DeleteChatRoomRequest{ShortCode: r.PathValue("short_code")})
	return struct{}{}, err
}

func (s *restServer) joinRoom(r *http.Request) (any, error) {
	body, err := readBody[struct {
		RoomPassword string `json:"room_password"`
	}](r)
	if err != nil {
		return nil, err
	}
	resp, err := s.chat.JoinChatRoom(r.Context(), &pb.JoinChatRoomRequest{ShortCode: r.PathValue("short_code"), RoomPassword: body.RoomPassword})
	return tokenAnswer{resp.GetToken()}, err
}

func (s *restServer) listMembers(r *http.Request) (any, error) {
	room, members, err := s.chat.roomUsers(r.Context(), r.PathValue("short_code"), user.maySee, s.store.members)
	type member struct {
		UserName string `json:"user_name"`
		Owner    bool   `json:"owner"`
	}
	return struct {
		Members []member `json:"members"`
	}{listed(members, func(u roomUser) member { return member{u.UserName, u.ID == room.OwnerID} })}, err
}

func (s *restServer) removeMember(r *http.Request) (any, error) {
	return struct{}{}, s.chat.removeMember(r.Context(), r.PathValue("short_code"), r.PathValue("user_name"))
}

func (s *restServer) listBans(r *http.Request) (any, error) {
	_, bans, err := s.chat.roomUsers(r.Context(), r.PathValue("short_code"), user.mayChange, s.store.bans)
	type ban struct {
		UserName  string    `json:"user_name"`
		CreatedAt time.Time `json:"created_at"`
	}
	return struct {
		Bans []ban `json:"bans"`
	}{listed(bans, func(u roomUser) ban { return ban{u.UserName, u.Since} })}, err
}

func (s *restServer) ban(r *http.Request) (any, error) {
	return struct{}{}, s.chat.ban(r.Context(), r.PathValue("short_code"), r.PathValue("user_name"))
}

func (s *restServer) unban(r *http.Request) (any, error) {
	return struct{}{}, s.chat.unban(r.Context(), r.PathValue("short_code"), r.PathValue("user_name"))
}

type restUser struct {
	UserName string `json:"user_name"`
}

func (s *restServer) listUsers(r *http.Request) (any, error) {
	resp, err := s.chat.ListChatRoomUsers(r.Context(), &emptypb.Empty{})
	if err != nil {
		return nil, err
	}
	return struct {
		Users []restUser `json:"users"`
	}{listed(resp.GetUsers(), func(u *pb.ChatRoomUser) restUser { return restUser{u.GetUserName()} })}, nil
}

type restMessage struct {
	UserName        string    `json:"user_name"`
	Body            string    `json:"body"`
	Seq             uint64    `json:"seq"`
	SentAt          time.Time `json:"sent_at"`
	ClientMessageID string    `json:"client_message_id"`
	Kind            string    `json:"kind"`
}

func (s *restServer) listMessages(r *http.Request) (any, error) {
	query, err := queryOf(r)
	if err != nil {
		return nil, err
	}
	before, err := number(query, "before_seq")
	if err != nil {
		return nil, err
	}
	limit, err := number(query, "limit")
	if err != nil {
		return nil, err
	}
	resp, err := s.chat.ListMessages(r.Context(), &pb.ListMessagesRequest{BeforeSeq: before, Limit: uint32(min(limit, math.MaxUint32))})
	if err != nil {
		return nil, err
	}
	return struct {
		Messages []restMessage `json:"messages"`
	}{listed(resp.GetMessages(), func(m *pb.ChatEvent) restMessage {
		return restMessage{m.GetUserName(), m.GetBody(), m.GetSeq(), m.GetSentAt().AsTime(), m.GetClientMessageId(), m.GetKind().String()}
	})}, nil
}

// queryOf returns the parameters of a request. What cannot be read is refused: left out, it would list everything.
func queryOf(r *http.Request) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("query", "What follows the ? in the address cannot be read: percent-encode it.")
	}
	return query, nil
}

// number reads a parameter of a query; one that is missing is 0.
func number(query url.Values, name string) (uint64, error) {
	text := query.Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, invalid(name, "The parameter "+name+" has to be a number.")
	}
	return n, nil
}

func (s *restServer) postMessage(r *http.Request) (any, error) {
	body, err := readBody[struct {
		Body            string `json:"body"`
		ClientMessageID string `json:"client_message_id"`
	}](r)
	if err != nil {
		return nil, err
	}
	seq, err := s.chat.post(r.Context(), body.Body, body.ClientMessageID)
	return struct {
		Seq uint64 `json:"seq"`
	}{seq}, err
}
