package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/grpcchatter/grpcchatter/client"
)

// Most of the package: two users, a room, messages both ways, the history, and leaving.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	// A Client is for one server, at one address. Most programs need one.
	ann, err := client.New(exampleAddr) // such as "http://localhost:8080"
	if err != nil {
		log.Fatal(err)
	}
	defer ann.Disconnect()
	_, err = ann.Register(ctx, "ann", "a long password")
	if err != nil && !errors.Is(err, client.ErrNameTaken) {
		log.Fatal(err)
	}
	if err := ann.Login(ctx, "ann", "a long password"); err != nil {
		log.Fatal(err)
	}
	shortCode, err := ann.CreateChatRoom(ctx, "Tea at five", "milk first")
	if err != nil {
		log.Fatal(err)
	}
	room, err := ann.JoinChatRoom(ctx, shortCode, "")
	if err != nil {
		log.Fatal(err)
	}

	// Others join with the short code and the password, once; then they are members.
	bob, err := client.New(exampleAddr)
	if err != nil {
		log.Fatal(err)
	}
	defer bob.Disconnect()
	if _, err := bob.Register(ctx, "bob", "another password"); err != nil {
		log.Fatal(err)
	}
	if err := bob.Login(ctx, "bob", "another password"); err != nil {
		log.Fatal(err)
	}
	if _, err := bob.JoinChatRoom(ctx, shortCode, "sugar first"); errors.Is(err, client.ErrRoomAccessDenied) {
		fmt.Println("bob: wrong room password")
	}
	bobs, err := bob.JoinChatRoom(ctx, shortCode, "milk first",
		client.After(0), // from the first message on; a program that comes back gives the last seq it has
		client.OnState(func(s client.ConnState, cause error) {
			if s == client.Reconnecting {
				log.Print("bob: reconnecting: ", cause)
			}
		}),
		client.OnEvent(func(e client.Event) { log.Print("bob: ", e.UserName, ": ", e.Kind) }))
	if err != nil {
		log.Fatal(err)
	}
	names, err := room.ListChatRoomUsers(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("in the room:", names)

	// When Send has returned, the message is stored.
	for _, body := range []string{"Is the kettle on?", "Hello?"} {
		seq, err := room.Send(ctx, body)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("ann: sent", seq)
	}
	for m, err := range bobs.Messages(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("bob: got %d, %s: %s\n", m.Seq, m.UserName, m.Body)
		if m.Seq == 2 {
			break
		}
	}
	if err := bobs.Typing(ctx); err != nil {
		log.Fatal(err)
	}

	page, err := room.ListMessages(ctx, 2, 50) // up to 50 before seq 2
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the page begins with:", page[0].Body)
	rooms, err := ann.ListChatRooms(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("ann is in %q with %d messages\n", rooms[0].Name, rooms[0].LastSeq)

	// Leaving: one room with its Disconnect, all with that of the Client.
	if err := room.Disconnect(); err != nil {
		log.Fatal(err)
	}
	if err := ann.DeleteChatRoom(ctx, shortCode); err != nil {
		log.Fatal(err)
	}
	if _, err := bobs.Receive(ctx); errors.Is(err, client.ErrRoomDeleted) {
		fmt.Println("bob: the room is gone")
	}

	// Output:
	// bob: wrong room password
	// in the room: [ann bob]
	// ann: sent 1
	// ann: sent 2
	// bob: got 1, ann: Is the kettle on?
	// bob: got 2, ann: Hello?
	// the page begins with: Is the kettle on?
	// ann is in "Tea at five" with 2 messages
	// bob: the room is gone
}

// A program that its user stays logged in to keeps the token, where nobody else can read it, and not the password.
func ExampleClient_LoginWithToken() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	first, err := client.New(exampleAddr)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := first.Register(ctx, "carol", "a third password"); err != nil {
		log.Fatal(err)
	}
	if err := first.Login(ctx, "carol", "a third password"); err != nil {
		log.Fatal(err)
	}
	token := first.Token() // before Disconnect
	first.Disconnect()

	second, err := client.New(exampleAddr)
	if err != nil {
		log.Fatal(err)
	}
	defer second.Disconnect()
	user, err := second.LoginWithToken(ctx, token)
	if errors.Is(err, client.ErrUnauthenticated) {
		log.Fatal("the token has expired or is void: ask for the password")
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(user.UserName, "is back")

	// Output:
	// carol is back
}

// An error of the server has a sentinel for errors.Is, and says more as an *Error.
func ExampleError() {
	c, err := client.New(exampleAddr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Disconnect()
	err = c.Login(context.Background(), "nobody", "the wrong password")
	if errors.Is(err, client.ErrInvalidCredentials) {
		fmt.Println("try again")
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		fmt.Println(e.Code)
	}

	// Output:
	// try again
	// INVALID_CREDENTIALS
}
