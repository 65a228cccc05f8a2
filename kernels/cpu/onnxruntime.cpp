// The operators as ONNX Runtime's custom operators, through its C interface.
//
// The interface is a table of functions with a guaranteed order ("C API is backward compatible": new versions only add
// entries), so the few used here need no header. Domain "dcp_deploy.cpu":
//
//     ModulatedConv <up, clamp, threads> (x, style, weight, scale, bias, [noise]) -> y
//     ToRGB / ToRGBBytes <clamp, threads> (x, styles, weight, bias, [skip]) -> image
#include "layers.hpp"

namespace {

using dcp::Index;

struct Status;
struct Value;
struct Info;
struct ShapeInfo;
struct Domain;
struct Context;
struct Options;
struct Api;

struct ApiBase {
    const Api* (*get)(uint32_t version);
    const char* (*version)();
};

constexpr uint32_t kApiVersion = 16;      // ONNX Runtime 1.16
constexpr uint32_t kOperatorVersion = 8;  // version of the structure below, which later versions only extend
enum Element { kFloat = 1, kUint8 = 2 };  // ONNXTensorElementDataType
enum Characteristic { kRequired = 0, kOptional = 1 };

// Positions in the table.
enum Entry {
    kCreateDomain = 26,
    kAddOperator = 27,
    kAddDomain = 28,
    kGetData = 51,
    kGetRank = 61,
    kGetDimensions = 62,
    kGetShapeInfo = 65,
    kGetFloatAttribute = 85,
    kGetIntAttribute = 86,
    kGetInputCount = 88,
    kGetInput = 90,
    kGetOutput = 91,
    kReleaseShapeInfo = 99,
};

const void* const* g_table = nullptr;

template <class Function>
Function entry(Entry place) {
    return reinterpret_cast<Function>(const_cast<void*>(g_table[place]));
}

struct Operator {
    uint32_t version;
    void* (*create)(const Operator*, const Api*, const Info*);
    const char* (*name)(const Operator*);
    const char* (*provider)(const Operator*);
    Element (*input_type)(const Operator*, size_t);
    size_t (*input_count)(const Operator*);
    Element (*output_type)(const Operator*, size_t);
    size_t (*output_count)(const Operator*);
    void (*compute)(void*, Context*);
    void (*destroy)(void*);
    Characteristic (*input_characteristic)(const Operator*, size_t);
    Characteristic (*output_characteristic)(const Operator*, size_t);
    void* later[16];  // members of later versions, not used
};

// ---- tensors of a kernel ----

struct Tensor {
    float* data = nullptr;
    std::vector<int64_t> shape;
};

void* data_of(const Value* value) {
    void* data = nullptr;
    entry<Status* (*)(const Value*, void**)>(kGetData)(value, &data);
    return data;
}

// An empty tensor for an optional input that is absent.
Tensor input(const Context* context, size_t place) {
    size_t count = 0;
    entry<Status* (*)(const Context*, size_t*)>(kGetInputCount)(context, &count);
    const Value* value = nullptr;
    if (place < count) entry<Status* (*)(const Context*, size_t, const Value**)>(kGetInput)(context, place, &value);
    if (!value) return {};
    ShapeInfo* info = nullptr;
    size_t rank = 0;
    entry<Status* (*)(const Value*, ShapeInfo**)>(kGetShapeInfo)(value, &info);
    entry<Status* (*)(const ShapeInfo*, size_t*)>(kGetRank)(info, &rank);
    Tensor tensor{static_cast<float*>(data_of(value)), std::vector<int64_t>(rank)};
    entry<Status* (*)(const ShapeInfo*, int64_t*, size_t)>(kGetDimensions)(info, tensor.shape.data(), rank);
    entry<void (*)(ShapeInfo*)>(kReleaseShapeInfo)(info);
    return tensor;
}

void* output(Context* context, std::vector<int64_t> shape) {
    Value* value = nullptr;
    entry<Status* (*)(Context*, size_t, const int64_t*, size_t, Value**)>(kGetOutput)(context, 0, shape.data(),
                                                                                     shape.size(), &value);
    return data_of(value);
}

int64_t integer(const Info* info, const char* name) {
    int64_t value = 0;
    entry<Status* (*)(const Info*, const char*, int64_t*)>(kGetIntAttribute)(info, name, &value);
    return value;
}

float number(const Info* info, const char* name) {
    float value = 0;
    entry<Status* (*)(const Info*, const char*, float*)>(kGetFloatAttribute)(info, name, &value);
    return value;
}

// ---- kernels ----

struct ConvKernel {
    Index up, threads;
    float clamp;
    std::mutex mutex;
    const float* packed_from = nullptr;  // the weight, an initializer, is packed at the first call
    std::vector<float> packed;

    explicit ConvKernel(const Info* info)
        : up(integer(info, "up")), threads(integer(info, "threads")), clamp(number(info, "clamp")) {}

    const float* pack(const Tensor& weight, Index outputs) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (packed_from != weight.data) packed = (up ? dcp::pack_up : dcp::pack)(weight.data, outputs, weight.shape[1]);
        packed_from = weight.data;
        return packed.data();
    }

    void compute(Context* context) {
        const Tensor x = input(context, 0), style = input(context, 1), weight = input(context, 2);
        const Tensor scale = input(context, 3), bias = input(context, 4), noise = input(context, 5);
        const int64_t batch = style.shape[0], grow = up ? 2 : 1, outputs = scale.shape[1];
        dcp::ModulatedConv call{};
        call.batch = batch, call.x_batch = x.shape[0], call.noise_batch = noise.data ? noise.shape[0] : 1;
        call.height = x.shape[1], call.width = x.shape[2], call.inputs = style.shape[1], call.outputs = outputs;
        call.up = up, call.threads = threads, call.clamp = clamp;
        call.x = x.data, call.packed = pack(weight, outputs), call.style = style.data, call.scale = scale.data;
        call.bias = bias.data, call.noise = noise.data;
        const int64_t stored = dcp::rounded_up(outputs, dcp::kLanes);
        call.y = static_cast<float*>(output(context, {batch, x.shape[1] * grow, x.shape[2] * grow, stored}));
        dcp::run(call);
    }
};

template <bool kBytes>
struct ColourKernel {
    Index threads;
    float clamp;

    explicit ColourKernel(const Info* info) : threads(integer(info, "threads")), clamp(number(info, "clamp")) {}

    void compute(Context* context) {
        const Tensor x = input(context, 0), styles = input(context, 1), weight = input(context, 2);
        const Tensor bias = input(context, 3), skip = input(context, 4);
        const int64_t batch = x.shape[0], height = x.shape[1], width = x.shape[2];
        dcp::ToRGB call{};
        call.batch = batch, call.height = height, call.width = width, call.inputs = styles.shape[1];
        call.threads = threads, call.clamp = clamp;
        call.x = x.data, call.styles = styles.data, call.weight = weight.data, call.bias = bias.data;
        call.skip = skip.data;
        if (kBytes) call.bytes = static_cast<uint8_t*>(output(context, {batch, height, width, dcp::kColours}));
        else call.image = static_cast<float*>(output(context, {batch, dcp::kColours, height, width}));
        dcp::run(call);
    }
};

// ---- registration ----

template <class Kernel, size_t kRequiredInputs>
Operator described(const char* (*name)(const Operator*), Element result) {
    Operator op{};
    op.version = kOperatorVersion;
    op.create = [](const Operator*, const Api*, const Info* info) -> void* { return new Kernel(info); };
    op.name = name;
    op.provider = [](const Operator*) -> const char* { return nullptr; };  // the CPU
    op.input_type = [](const Operator*, size_t) { return kFloat; };
    op.input_count = [](const Operator*) { return kRequiredInputs + 1; };
    op.output_type = result == kUint8 ? [](const Operator*, size_t) { return kUint8; }
                                      : [](const Operator*, size_t) { return kFloat; };
    op.output_count = [](const Operator*) -> size_t { return 1; };
    op.compute = [](void* kernel, Context* context) { static_cast<Kernel*>(kernel)->compute(context); };
    op.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    op.input_characteristic = [](const Operator*, size_t place) { return place < kRequiredInputs ? kRequired : kOptional; };
    op.output_characteristic = [](const Operator*, size_t) { return kRequired; };
    return op;
}

const Operator kOperators[] = {
    described<ConvKernel, 5>([](const Operator*) { return "ModulatedConv"; }, kFloat),
    described<ColourKernel<false>, 4>([](const Operator*) { return "ToRGB"; }, kFloat),
    described<ColourKernel<true>, 4>([](const Operator*) { return "ToRGBBytes"; }, kUint8),
};

}  // namespace

// ONNX Runtime calls this if a session's options name this library.
extern "C" Status* RegisterCustomOps(Options* options, const ApiBase* base) {
    const Api* api = base->get(kApiVersion);
    if (!api) return nullptr;  // too old: the session will report unknown operators
    g_table = reinterpret_cast<const void* const*>(api);
    static std::mutex mutex;
    static Domain* domain = nullptr;  // one for all sessions; it must outlive them
    const std::lock_guard<std::mutex> lock(mutex);
    if (!domain) {
        Domain* made = nullptr;
        if (Status* no = entry<Status* (*)(const char*, Domain**)>(kCreateDomain)("dcp_deploy.cpu", &made)) return no;
        for (const Operator& op : kOperators)
            if (Status* no = entry<Status* (*)(Domain*, const Operator*)>(kAddOperator)(made, &op)) return no;
        domain = made;
    }
    return entry<Status* (*)(Options*, Domain*)>(kAddDomain)(options, domain);
}
