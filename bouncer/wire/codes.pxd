"""Message, startup and copy codes of the PostgreSQL protocol, version 3.

PostgreSQL documentation, "Message Formats". One name per code and direction.
"""


cpdef enum Frontend:            # client to server
    FE_BIND = 0x42              # 'B'
    FE_CLOSE = 0x43             # 'C'
    FE_COPY_DATA = 0x64         # 'd'
    FE_COPY_DONE = 0x63         # 'c'
    FE_COPY_FAIL = 0x66         # 'f'
    FE_DESCRIBE = 0x44          # 'D'
    FE_EXECUTE = 0x45           # 'E'
    FE_FLUSH = 0x48             # 'H'
    FE_FUNCTION_CALL = 0x46     # 'F'
    FE_PARSE = 0x50             # 'P'
    FE_PASSWORD = 0x70          # 'p', also SASL and GSS responses
    FE_QUERY = 0x51             # 'Q'
    FE_SYNC = 0x53              # 'S'
    FE_TERMINATE = 0x58         # 'X'


cpdef enum Backend:             # server to client
    BE_AUTHENTICATION = 0x52    # 'R'
    BE_BACKEND_KEY_DATA = 0x4B  # 'K'
    BE_BIND_COMPLETE = 0x32     # '2'
    BE_CLOSE_COMPLETE = 0x33    # '3'
    BE_COMMAND_COMPLETE = 0x43  # 'C'
    BE_COPY_BOTH = 0x57         # 'W'
    BE_COPY_DATA = 0x64         # 'd'
    BE_COPY_DONE = 0x63         # 'c'
    BE_COPY_IN = 0x47           # 'G'
    BE_COPY_OUT = 0x48          # 'H'
    BE_DATA_ROW = 0x44          # 'D'
    BE_EMPTY_QUERY = 0x49       # 'I'
    BE_ERROR = 0x45             # 'E'
    BE_FUNCTION_RESULT = 0x56   # 'V'
    BE_NEGOTIATE = 0x76         # 'v'
    BE_NO_DATA = 0x6E           # 'n'
    BE_NOTICE = 0x4E            # 'N'
    BE_NOTIFICATION = 0x41      # 'A'
    BE_PARAMETER_DESCRIPTION = 0x74  # 't'
    BE_PARAMETER_STATUS = 0x53  # 'S'
    BE_PARSE_COMPLETE = 0x31    # '1'
    BE_PORTAL_SUSPENDED = 0x73  # 's'
    BE_READY = 0x5A             # 'Z'
    BE_ROW_DESCRIPTION = 0x54   # 'T'


cpdef enum Request:             # first word of a packet without a type byte
    REQUEST_STARTUP_2 = 0x00020000
    REQUEST_STARTUP_3 = 0x00030000
    REQUEST_CANCEL = 80877102
    REQUEST_SSL = 80877103
    REQUEST_GSSENC = 80877104


cpdef enum Status:              # the byte of ReadyForQuery
    STATUS_IDLE = 0x49          # 'I'
    STATUS_IN_TRANSACTION = 0x54  # 'T'
    STATUS_FAILED = 0x45        # 'E'
