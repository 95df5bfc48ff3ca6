/* A CUDA driver that does nothing, so that what launches cost the host can be measured. */
#include <stddef.h>
#include <stdint.h>

typedef int Result;
typedef void *Handle;

Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 16 ? 132 : attribute == 39 ? 2048 : 232448; /* multiprocessors, threads */
    return 0;
}
Result cuFuncGetAttribute(int *value, int attribute, Handle function) {
    *value = attribute == 4 ? 64 : attribute == 0 ? 1024 : 0; /* registers, threads */
    return 0;
}
Result cuPointerGetAttribute(void *data, int attribute, uint64_t pointer) {
    *(uint64_t *)data = pointer;
    return 0;
}
Result cuGetErrorString(Result error, const char **text) { *text = "stub"; return 0; }
Result cuDevicePrimaryCtxRetain(Handle *context, int device) { *context = (Handle)1; return 0; }
Result cuCtxGetCurrent(Handle *context) { *context = (Handle)1; return 0; }
Result cuCtxGetLimit(size_t *value, int limit) { *value = 0; return 0; }
Result cuDeviceGet(int *device, int index) { *device = index; return 0; }
Result cuModuleLoadData(Handle *module, const void *image) { *module = (Handle)2; return 0; }
Result cuModuleGetFunction(Handle *function, Handle module, const char *name) {
    *function = (Handle)3;
    return 0;
}
Result cuOccupancyMaxActiveClusters(int *count, Handle function, Handle config) {
    *count = 1;
    return 0;
}
Result cuDriverGetVersion(int *version) { *version = 12080; return 0; }
Result cuLaunchKernelEx(Handle config, Handle function, Handle *arguments, Handle *extra) { return 0; }
Result cuCtxSetCurrent(Handle context) { return 0; }
Result cuCtxSetLimit(int limit, size_t value) { return 0; }
Result cuFuncSetAttribute(Handle function, int attribute, int value) { return 0; }
Result cuFuncSetCacheConfig(Handle function, int config) { return 0; }
Result cuModuleUnload(Handle module) { return 0; }
Result cuPointerGetAttributes(void) { return 0; }
Result cuTensorMapEncodeTiled(void) { return 0; }
Result cuTensorMapEncodeIm2col(void) { return 0; }
