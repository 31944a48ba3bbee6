"""The stand-in of LiveKit: server, SIP bridge and agent workers on loopback.

The rules are those of livekit-server 1.13.5 and livekit-sip 1.8.0; the contract tests that touch
the API also run against the real server when one is given.
"""

from router.sandbox.livekit.standin import LiveKitStandIn
from router.sandbox.livekit.workers import Behaviour, Job
from router.sandbox.sip import Invite, Leg

__all__ = ["Behaviour", "Invite", "Job", "Leg", "LiveKitStandIn"]
