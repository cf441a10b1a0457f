package vivo

import (
	"net/http"

	"github.com/halleypush/halley/services/vendorsim/internal/frame"
)

// The codes that the simulator gives by itself.
const (
	success         = "0"
	badToken        = "10000"
	badArgument     = "10054"
	operationQuota  = "10070"
	outsideHours    = "10071"
	overRate        = "10072"
	systemQuota     = "10073"
	badText         = "10085"
	appMismatch     = "10094"
	badCategory     = "10096"
	categoryClass   = "10097"
	noAppID         = "10200"
	noAppKey        = "10201"
	badAppKey       = "10202"
	noTimestamp     = "10203"
	noSign          = "10204"
	unknownApp      = "10205"
	badSign         = "10206"
	badTimestamp    = "10207"
	payloadQuota    = "10252"
	broadcastQuota  = "10254"
	invalidUser     = "10302"
	noSuchPath      = "404"
	statusUnknown   = "1"
	statusRemoved   = "2"
	statusNotTester = "4"

	arrived = "0"
)

// Codes lists the documented answers. A code whose status is not 200 is an HTTP status without a code of vivo's. Of the codes of
// authentication the sheet numbers the first two; what the others of that range mean is from memory.
func Codes() []frame.Code {
	var codes []frame.Code
	add := func(place frame.Place, group frame.Group, list ...[2]string) {
		for _, c := range list {
			codes = append(codes, frame.Code{Status: http.StatusOK, Code: c[0], Meaning: c[1], Group: group, Place: place})
		}
	}
	answer := func(group frame.Group, list ...[2]string) { add(frame.InAnswer, group, list...) }
	answer(frame.Success, [2]string{success, "success"})
	answer(frame.Refresh, [2]string{badToken, "authentication failed"})
	parameters := [][2]string{
		{noAppID, "appId is empty"},
		{noAppKey, "appKey is empty"},
		{badAppKey, "bad appKey"},
		{noTimestamp, "timestamp is empty"},
		{noSign, "sign is empty"},
		{unknownApp, "appId is not known"},
		{badSign, "bad sign"},
		{badTimestamp, "bad timestamp"},
	}
	answer(frame.Configuration, parameters...)
	answer(frame.Configuration, [2]string{appMismatch, "appId is not that of the token"})
	add(frame.InAuth, frame.Configuration, parameters...)
	// What vivo answers to more than 10 calls a second is not documented; this is its code for too fast.
	add(frame.InAuth, frame.Rate, [2]string{overRate, "over 10 calls a second"})
	answer(frame.TokenInvalid, [2]string{invalidUser, "regId is invalid"})
	answer(frame.Payload, [2]string{badArgument, "bad content, target or other argument"}, [2]string{badText, "title or content against the rules"},
		[2]string{"10104", "title or content against the rules"}, [2]string{badCategory, "bad category"},
		[2]string{categoryClass, "category against classification"})
	answer(frame.Quota, [2]string{operationQuota, "operation total of the day"}, [2]string{systemQuota, "system total of the day"},
		[2]string{payloadQuota, "list payloads of the day"}, [2]string{broadcastQuota, "broadcasts of the day"})
	answer(frame.Hours, [2]string{outsideHours, "outside the hours of the operation class"})
	answer(frame.Rate, [2]string{overRate, "too fast"})
	answer(frame.RetryLater, [2]string{"10040", "resource limit, try later"})
	codes = append(codes,
		frame.Code{Status: 404, Code: noSuchPath, Meaning: "no such path", Group: frame.Payload, Place: frame.InAnswer},
		frame.Code{Status: 500, Code: "500", Meaning: "internal error", Group: frame.RetryLater, Place: frame.InAnswer},
		frame.Code{Code: arrived, Meaning: "arrived", Group: frame.Delivered, Place: frame.InReceipt},
	)
	add(frame.InToken, frame.TokenInvalid, [2]string{statusUnknown, "unknown in this app"}, [2]string{statusRemoved, "uninstalled or unsubscribed"})
	add(frame.InToken, frame.TokenKeep, [2]string{statusNotTester, "not a test user"})
	return codes
}
