"""What an error of aiokafka says about the record that was sent; every class has its line here.

Kafka's own word on each code: kafka.apache.org/protocol (error codes). After any of them the
idempotent producer is made anew (`shipment`); the verdict decides what happens to the record.
"""

from typing import Final, Literal

from aiokafka import errors as kafka

from router.errors import LogUnavailable

Verdict = Literal["again", "record", "doubtful", "time", "client"]
"""
 - `again`: nothing is said about the record; it is sent again.
 - `record`: this record will never be taken as it is.
 - `doubtful`: the record or the moment; the record, if it is refused again alone.
 - `time`: the record's time is refused, and it may be sent with another.
 - `client`: settings, credentials or rights: nothing will be taken until somebody mends them.
"""

# aiokafka also asserts what a broker or a race can make untrue; that is no fault of the caller.
CLIENT_ERRORS: Final = (
    kafka.KafkaError,
    kafka.ConsumerStoppedError,
    kafka.IllegalOperation,
    AssertionError,
    OSError,
    TimeoutError,
)

_RECORD: Final = (
    kafka.MessageSizeTooLargeError,
    kafka.RecordListTooLargeError,
    kafka.RecordTooLargeError,
    kafka.PolicyViolationError,
    kafka.InvalidTopicError,
)
_TIME: Final = (kafka.InvalidTimestampError,)
_DOUBTFUL: Final = (
    kafka.UnknownError,  # also what aiokafka makes of codes that it does not know: INVALID_RECORD
    kafka.CorruptRecordException,
    kafka.InvalidRequestError,
)
_CLIENT: Final = (
    kafka.AuthenticationFailedError,
    kafka.AuthenticationMethodNotSupported,
    kafka.ClusterAuthorizationFailedError,
    kafka.DelegationTokenAuthDisabled,
    kafka.DelegationTokenAuthorizationFailed,
    kafka.DelegationTokenExpired,
    kafka.DelegationTokenNotFound,
    kafka.DelegationTokenOwnerMismatch,
    kafka.DelegationTokenRequestNotAllowed,
    kafka.GroupAuthorizationFailedError,
    kafka.IllegalArgumentError,
    kafka.IllegalSaslStateError,
    kafka.IncompatibleBrokerVersion,
    kafka.InvalidConfigurationError,
    kafka.InvalidPartitionsError,
    kafka.InvalidPrincipalType,
    kafka.InvalidReplicationAssignmentError,
    kafka.InvalidReplicationFactorError,
    kafka.InvalidRequiredAcksError,
    kafka.KafkaConfigurationError,
    kafka.SaslAuthenticationFailed,
    kafka.SecurityDisabled,
    kafka.TopicAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
    kafka.UnrecognizedBrokerVersion,
    kafka.UnsupportedCodecError,
    kafka.UnsupportedForMessageFormatError,
    kafka.UnsupportedSaslMechanismError,
    kafka.UnsupportedVersionError,
)
_AGAIN: Final = (
    kafka.BrokerNotAvailableError,
    kafka.BrokerResponseError,
    kafka.Cancelled,
    kafka.CommitFailedError,
    kafka.ConcurrentTransactions,
    kafka.ConsumerStoppedError,
    kafka.CoordinatorLoadInProgressError,
    kafka.CoordinatorNotAvailableError,
    kafka.CorrelationIdError,
    kafka.DuplicateSequenceNumber,
    kafka.FetchSessionIdNotFound,
    kafka.GroupIdNotFound,
    kafka.IllegalGenerationError,
    kafka.IllegalOperation,
    kafka.IllegalStateError,
    kafka.InconsistentGroupProtocolError,
    kafka.InvalidCommitOffsetSizeError,
    kafka.InvalidFetchRequestError,
    kafka.InvalidFetchSessionEpoch,
    kafka.InvalidGroupIdError,
    kafka.InvalidProducerEpoch,
    kafka.InvalidProducerIdMapping,
    kafka.InvalidSessionTimeoutError,
    kafka.InvalidTransactionTimeout,
    kafka.InvalidTxnState,
    kafka.KafkaConnectionError,
    kafka.KafkaError,
    kafka.KafkaProtocolError,
    kafka.KafkaStorageError,
    kafka.KafkaTimeoutError,
    kafka.KafkaUnavailableError,
    kafka.LeaderNotAvailableError,
    kafka.ListenerNotFound,
    kafka.LogDirNotFound,
    kafka.MemberIdRequired,
    kafka.MetadataEmptyBrokerList,
    kafka.NoBrokersAvailable,
    kafka.NoError,
    kafka.NoOffsetForPartitionError,
    kafka.NodeNotReadyError,
    kafka.NonEmptyGroup,
    kafka.NotControllerError,
    kafka.NotCoordinatorError,
    kafka.NotEnoughReplicasAfterAppendError,
    kafka.NotEnoughReplicasError,
    kafka.NotLeaderForPartitionError,
    kafka.OffsetMetadataTooLargeError,
    kafka.OffsetOutOfRangeError,
    kafka.OperationNotAttempted,
    kafka.OutOfOrderSequenceNumber,
    kafka.ProducerClosed,
    kafka.ProducerFenced,
    kafka.QuotaViolationError,
    kafka.ReassignmentInProgress,
    kafka.RebalanceInProgressError,
    kafka.ReplicaNotAvailableError,
    kafka.RequestTimedOutError,
    kafka.StaleControllerEpochError,
    kafka.StaleLeaderEpochCodeError,
    kafka.StaleMetadata,
    kafka.TooManyInFlightRequests,
    kafka.TopicAlreadyExistsError,
    kafka.TransactionCoordinatorFenced,
    kafka.UnknownMemberIdError,
    kafka.UnknownProducerId,
    kafka.UnknownTopicOrPartitionError,
)
_VERDICTS: Final[dict[type[BaseException], Verdict]] = {
    **dict.fromkeys(_AGAIN, "again"),
    **dict.fromkeys(_RECORD, "record"),
    **dict.fromkeys(_DOUBTFUL, "doubtful"),
    **dict.fromkeys(_TIME, "time"),
    **dict.fromkeys(_CLIENT, "client"),
}


def verdict(error: BaseException) -> Verdict:
    """What `error`, which sending a record ended in, says about the record."""
    for kind in type(error).__mro__:
        if kind in _VERDICTS:
            return _VERDICTS[kind]
    # No word of Kafka's: aiokafka could not even make a request of the record.
    return "doubtful" if isinstance(error, ValueError | TypeError | OverflowError) else "again"


def name_of(error: BaseException) -> str:
    """For logs: the kind of an error, or our own words.

    aiokafka's texts can hold keys, which are phone numbers.
    """
    return str(error) if isinstance(error, LogUnavailable) else type(error).__name__


def why(error: BaseException) -> str:
    """For people: what to make of an error that asking the brokers ended in, from `CLIENT_ERRORS`.

    The kinds are for logs (`name_of`): a class's name tells nobody what to do.
    """
    match error:
        case LogUnavailable():
            return str(error)
        case kafka.KafkaConnectionError() | kafka.NoBrokersAvailable() | ConnectionError():
            return "no broker answers there, or none that speaks kafka.security_protocol"
        case TimeoutError() | kafka.KafkaTimeoutError() | kafka.RequestTimedOutError():
            return "no answer in time"
        case kafka.UnsupportedVersionError() | kafka.UnrecognizedBrokerVersion():
            return "it is too old a version"
        case OSError() if error.strerror:
            return error.strerror
    if verdict(error) == "client":
        return "it refuses our user, password or rights"
    return "it can't do that at the moment"
