package quorum

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Frame is what daemons send each other about the group. Exactly one of
// Message, Proposal and Answer is set.
type Frame struct {
	Group    string // uuid of the group
	From, To uint64 // raft ids
	Message  *raftpb.Message
	Proposal *Proposal
	Answer   *Answer
}

// Proposal asks the leader to propose Data. Request is the sender's number for it.
type Proposal struct {
	Request uint64
	Data    []byte
}

// Answer is what became of the Proposal with that number: applied at Index, or
// Refused for that reason.
type Answer struct {
	Request uint64
	Index   uint64 // zero: not applied
	Refused string // empty: not refused
	Leader  uint64 // whom to ask instead, zero if not known
}

// The bounds of an encoded frame, in bytes.
const (
	MaxFrame         = 1 << 20
	MaxSnapshotFrame = 8 << 20
)

// ErrFrame says that there are bytes that are not a frame.
var ErrFrame = errors.New("not a frame of the raft group")

// ErrVersion says that it is a frame of another version of this program.
var ErrVersion = errors.New("a frame of an unknown version")

const frameVersion = 1

// A snapshot is a kind of its own, so that the bound is known before anything is decoded.
const (
	kindMessage byte = iota + 1
	kindSnapshot
	kindProposal
	kindAnswer
)

const maxGroup = 64 // bytes of Group

// Encode returns the frame as bytes: version, kind, then the fields, numbers
// as varints, what has a length behind its length.
func (f Frame) Encode() ([]byte, error) {
	kind, err := f.kind()
	if err != nil {
		return nil, err
	}
	b := append(make([]byte, 0, 128), frameVersion, kind)
	b = appendBytes(b, []byte(f.Group))
	b = binary.AppendUvarint(b, f.From)
	b = binary.AppendUvarint(b, f.To)
	switch kind {
	case kindProposal:
		b = binary.AppendUvarint(b, f.Proposal.Request)
		b = appendBytes(b, f.Proposal.Data)
	case kindAnswer:
		b = binary.AppendUvarint(b, f.Answer.Request)
		b = binary.AppendUvarint(b, f.Answer.Index)
		b = appendBytes(b, []byte(f.Answer.Refused))
		b = binary.AppendUvarint(b, f.Answer.Leader)
	default:
		b = binary.AppendUvarint(b, uint64(proto.Size(f.Message)))
		if b, err = (proto.MarshalOptions{}).MarshalAppend(b, f.Message); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFrame, err)
		}
	}
	if len(b) > bound(kind) {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrFrame, len(b), bound(kind))
	}
	return b, nil
}

// kind is the frame's kind, an error if it is not sound.
func (f Frame) kind() (byte, error) {
	if len(f.Group) > maxGroup {
		return 0, fmt.Errorf("%w: the group's name has %d bytes", ErrFrame, len(f.Group))
	}
	switch {
	case f.Message != nil && f.Proposal == nil && f.Answer == nil:
		if f.Message.GetFrom() != f.From || f.Message.GetTo() != f.To {
			return 0, fmt.Errorf("%w: a message from %x to %x in a frame from %x to %x",
				ErrFrame, f.Message.GetFrom(), f.Message.GetTo(), f.From, f.To)
		}
		if f.Message.GetType() == raftpb.MsgSnap {
			return kindSnapshot, nil
		}
		return kindMessage, nil
	case f.Message == nil && f.Proposal != nil && f.Answer == nil:
		return kindProposal, nil
	case f.Message == nil && f.Proposal == nil && f.Answer != nil:
		return kindAnswer, nil
	}
	return 0, fmt.Errorf("%w: it holds none or several of message, proposal, answer", ErrFrame)
}

// DecodeFrame reads what Encode wrote. It keeps no part of b.
func DecodeFrame(b []byte) (Frame, error) {
	if len(b) < 2 {
		return Frame{}, fmt.Errorf("%w: %d bytes", ErrFrame, len(b))
	}
	if b[0] != frameVersion {
		return Frame{}, fmt.Errorf("%w: %d, this program knows %d", ErrVersion, b[0], frameVersion)
	}
	kind := b[1]
	if len(b) > bound(kind) {
		return Frame{}, fmt.Errorf("%w: %d bytes, the limit is %d", ErrFrame, len(b), bound(kind))
	}
	r := reader{rest: b[2:]}
	f := Frame{Group: string(r.bytes()), From: r.number(), To: r.number()}
	switch kind {
	case kindMessage, kindSnapshot:
		f.Message = &raftpb.Message{}
		if err := (proto.UnmarshalOptions{RecursionLimit: 8}).Unmarshal(r.bytes(), f.Message); err != nil {
			return Frame{}, fmt.Errorf("%w: %w", ErrFrame, err)
		}
	case kindProposal:
		f.Proposal = &Proposal{Request: r.number(), Data: append([]byte(nil), r.bytes()...)}
	case kindAnswer:
		f.Answer = &Answer{Request: r.number(), Index: r.number(), Refused: string(r.bytes()), Leader: r.number()}
	default:
		return Frame{}, fmt.Errorf("%w: of unknown kind %d", ErrFrame, kind)
	}
	if r.bad || len(r.rest) > 0 {
		return Frame{}, fmt.Errorf("%w: it is cut off or has %d bytes too many", ErrFrame, len(r.rest))
	}
	if k, err := f.kind(); err != nil {
		return Frame{}, err
	} else if k != kind {
		return Frame{}, fmt.Errorf("%w: of kind %d, marked as %d", ErrFrame, k, kind)
	}
	return f, nil
}

func bound(kind byte) int {
	if kind == kindSnapshot {
		return MaxSnapshotFrame
	}
	return MaxFrame
}

func appendBytes(b, data []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(data))), data...)
}

// reader takes fields off bytes; after the first that is not there all are zero.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.rest, r.bad = nil, true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.rest, r.bad = nil, true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}
