"""The stand-in of Twilio's voice: calls, webhooks, TwiML, on loopback."""

from router.sandbox.call import Step
from router.sandbox.twilio.call import Call
from router.sandbox.twilio.delivery import Disorder
from router.sandbox.twilio.number import Number
from router.sandbox.twilio.phones import Phone
from router.sandbox.twilio.standin import TwilioStandIn

__all__ = ["Call", "Disorder", "Number", "Phone", "Step", "TwilioStandIn"]
