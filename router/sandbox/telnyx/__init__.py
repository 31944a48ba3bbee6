"""The stand-in of Telnyx's voice: Call Control, TeXML and their webhooks, on loopback."""

from router.sandbox.telnyx.call import Call, CallLeg
from router.sandbox.telnyx.standin import TelnyxStandIn

__all__ = ["Call", "CallLeg", "TelnyxStandIn"]
